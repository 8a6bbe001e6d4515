"""Rows of the user's own questions as items: how each is asked, and which answers are right."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dola.errors import DataError, UsageError
from dola.tasks.data import Data, Row
from dola.tasks.items import ChoiceItem, QuestionItem
from dola.tasks.own_columns import Columns, listed

TEMPLATE = "Q: {question}\nA:"
CONTEXT_TEMPLATE = "{context}\n\nQ: {question}\nA:"
MAX_NEW_TOKENS = 64
PLACES = ("question", "context")
"""Placeholders that a template may contain."""


@dataclass(frozen=True)
class Asking:
    """How questions are turned into prompts.

    Attributes:
        template: A format string with {question} and, if there are contexts, {context}. It ends where the answer begins.
        shots: Examples with their answers, put before each question in the same form.
        max_new_tokens: Maximum length of a generated answer.
    """

    template: str | None = None
    shots: tuple[tuple[Mapping[str, str], str], ...] = ()
    max_new_tokens: int = MAX_NEW_TOKENS

    def __post_init__(self) -> None:
        if self.template is None:
            return
        try:
            used = {name for _, name, _, _ in string.Formatter().parse(self.template) if name is not None}
        except ValueError as error:
            raise UsageError(f"The prompt template cannot be read: {error}.", hint="write {{ and }} for braces") from None
        if unknown := sorted(used - set(PLACES)):
            raise UsageError(
                f"The prompt template has a place for {unknown[0]!r}; allowed are {listed(PLACES)}.",
                hint="write {{ and }} for braces",
            )
        if "question" not in used:
            raise UsageError("The prompt template has no {question}.", hint=f"for instance {TEMPLATE!r}")

    def prompt(self, question: str, context: str | None) -> str:
        """The text before the answer: the examples, then the question."""
        before = [f"{self._asked(**given)} {answer}\n\n" for given, answer in self.shots]
        return "".join(before) + self._asked(question, context)

    def message(self, question: str, context: str | None) -> str | None:
        """The message to a chat model. None if there are examples or a template: it then gets the prompt."""
        if self.shots or self.template is not None:
            return None
        return question if context is None else f"{context}\n\n{question}"

    def _asked(self, question: str, context: str | None = None) -> str:
        template = self.template or (TEMPLATE if context is None else CONTEXT_TEMPLATE)
        return template.format(question=question, context=context or "")


def own_items(data: Data, columns: Columns, asking: Asking) -> list[QuestionItem]:
    """The questions, to be answered with generated text.

    Raises:
        DataError: A row has no question or no answer.
    """
    return [_question(row, columns, asking) for row in data.rows]


def choice_items(data: Data, columns: Columns, asking: Asking) -> list[ChoiceItem]:
    """Questions whose answers are scored.

    Raises:
        DataError: A row has no question, no right or no wrong answers, or one that is both.
    """
    return [_choice(row, columns, asking) for row in data.rows]


def _choice(row: Row, columns: Columns, asking: Asking) -> ChoiceItem:
    right, wrong = _chosen(row, columns) if columns.choices else (_several(row, columns.answer), _several(row, columns.wrong))
    folded = {_folded(text) for text in right}
    if both := [text for text in wrong if _folded(text) in folded]:
        raise DataError(
            f"{row.where}: {both[0]!r} is among the right answers and among the wrong ones.", hint="take it out of one of them"
        )
    question, context = row.text(columns.question), _optional(row, columns.context)
    lead = "" if asking.prompt(question, context)[-1:].isspace() else " "
    return ChoiceItem(
        _id(row, columns),
        asking.prompt(question, context),
        tuple(f"{lead}{text.strip()}" for text in (*right, *wrong)),
        (True,) * len(right) + (False,) * len(wrong),
        best=0,
        group=_optional(row, columns.group),
    )


def _folded(text: str) -> str:
    """What makes two answers the same to readers: not case, an article, quotes or a full stop. But -2 is not 2, nor C++ C."""
    return re.sub("^(a|an|the) ", "", " ".join(text.casefold().split()).strip(" \"'.")) or text


def _question(row: Row, columns: Columns, asking: Asking) -> QuestionItem:
    question, context = row.text(columns.question), _optional(row, columns.context)
    return QuestionItem(
        _id(row, columns),
        asking.prompt(question, context),
        question,
        answers=tuple(_several(row, columns.answer)),
        message=asking.message(question, context),
        group=_optional(row, columns.group),
    )


def _chosen(row: Row, columns: Columns) -> tuple[list[str], list[str]]:
    """The right and the wrong choices. The label is an index from 0, a letter, a choice's text, or a choice's name."""
    assert columns.choices is not None
    assert columns.label is not None
    found, label = row.value(columns.choices), row.value(columns.label)
    names: list[str] = []
    if isinstance(found, dict) and isinstance(found.get("text"), list):  # as on the hub: {"text": [...], "label": ["A", ...]}
        texts, names = [str(text) for text in found["text"]], [str(name) for name in found.get("label", ())]
    else:
        texts = _several(row, columns.choices)
    at = _place(str(label).strip(), texts, names)
    if at is None:
        last = len(texts) - 1
        raise DataError(
            f"{row.where}: the label {label!r} names none of the {len(texts)} choices.",
            hint=f"allowed are 0 to {last}, the letters A to {string.ascii_uppercase[min(last, 25)]}, or the text of a choice",
        )
    if len(texts) < 2:
        raise DataError(f"{row.where}: there is one choice alone.", hint="give one wrong choice at least")
    return [texts[at]], texts[:at] + texts[at + 1 :]


def _place(label: str, texts: Sequence[str], names: Sequence[str]) -> int | None:
    if label in names:
        return names.index(label)
    if label in texts:
        return texts.index(label)
    if label.isdigit() and int(label) < len(texts):
        return int(label)
    letter = string.ascii_uppercase.find(label.upper()) if len(label) == 1 else -1
    return letter if 0 <= letter < len(texts) else None


def _several(row: Row, column: str | None) -> list[str]:
    """The texts in a cell: a list, or text separated by "|" or ";"."""
    assert column is not None
    value = row.value(column)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [str(value)]
    if isinstance(value, dict):  # as data sets of the hub have them
        value = value.get("text") if "text" in value else [value.get("value"), *(value.get("aliases") or ())]
        value = [value] if isinstance(value, str) else value
        kept = [each.strip() for each in value or () if isinstance(each, str) and each.strip()]
        if kept:
            return list(dict.fromkeys(kept))
        raise DataError(f"{row.where}: the field {column!r} has no answer.", hint="complete the row, or remove it")
    if isinstance(value, bool):
        word = str(value).lower()
        raise DataError(f"{row.where}: the field {column!r} is {word}, not text.", hint=f'write the answer as text: "{word}"')
    text = value if isinstance(value, str) else ""
    found = row.texts(column, separator="|" if "|" in text else ";" if ";" in text else "\0")
    kept = [each.strip() for each in found if each.strip()]
    if not kept:
        raise DataError(f"{row.where}: the field {column!r} has no answer.", hint="complete the row, or remove it")
    return list(dict.fromkeys(kept))


def _optional(row: Row, column: str | None) -> str | None:
    if column is None:
        return None
    value = row.fields.get(column)
    return None if value is None or not str(value).strip() else str(value)


def _id(row: Row, columns: Columns) -> str:
    return _optional(row, columns.id) or str(row.number)
