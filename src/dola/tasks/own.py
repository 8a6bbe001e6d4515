"""The user's own questions as a task, with columns of any name.

    question, answer                          generation: the text is compared with the known answers
    question, answer, wrong                   multiple choice by likelihood
    question, choices, label                  multiple choice by likelihood
    context, id, group                        optional, with any of these

An answer may be a list. A cell of a table may hold several, as JSON or separated by "|" or ";".
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from dola.errors import DataError, UsageError
from dola.tasks import answers
from dola.tasks.data import Data, Row
from dola.tasks.items import ChoiceItem, QuestionItem, check_scores, per_token, share_of_right
from dola.tasks.task import NO_PAPER, ChoiceTask, Generation, GenerationTask, Metric, Task

NAMES: dict[str, tuple[str, ...]] = {
    "question": ("question", "prompt", "query", "input"),
    "answer": ("answer", "answers", "correct_answer", "correct_answers", "best_answer", "gold", "target"),
    "wrong": ("wrong", "wrong_answer", "wrong_answers", "incorrect_answer", "incorrect_answers", "distractors"),
    "choices": ("choices", "options"),
    "label": ("label", "answer_index", "answerKey", "answer_key"),
    "context": ("context", "passage"),
    "id": ("id", "question_id", "qid"),
    "group": ("group",),
}
"""Names that each kind of column may have. The first one that the data contain is used."""
TEMPLATE = "Q: {question}\nA:"
CONTEXT_TEMPLATE = "{context}\n\nQ: {question}\nA:"
MAX_NEW_TOKENS = 64
PLACES = ("question", "context")
"""Placeholders that a template may contain."""


@dataclass(frozen=True)
class Columns:
    """The column of each kind, by name; None for a kind that the data lack.

    Attributes:
        question, answer, wrong, choices, label, context, id, group: Names of columns.
        others: Columns that are not used.
    """

    question: str
    answer: str | None = None
    wrong: str | None = None
    choices: str | None = None
    label: str | None = None
    context: str | None = None
    id: str | None = None
    group: str | None = None
    others: tuple[str, ...] = ()

    @property
    def scored(self) -> bool:
        """Whether there are wrong answers, so that answers are scored and not generated."""
        return self.wrong is not None or self.choices is not None

    @classmethod
    def of(cls, data: Data, named: Mapping[str, str] | None = None) -> Columns:
        """Find the columns of some data.

        Args:
            data: The rows.
            named: Columns with other names, by kind: for instance {"question": "Frage"}.

        Raises:
            UsageError: A kind that does not exist, or a column that the data do not have.
            DataError: No column holds questions, or none holds answers.
        """
        there = tuple(dict.fromkeys(name for row in data.rows for name in row.fields))
        found: dict[str, str] = {}
        for what, column in (named or {}).items():
            if what not in NAMES:
                raise UsageError(f"{what!r} is not a kind of column; there are {_listed(NAMES)}.", hint="question=COLUMN")
            if column not in there:
                raise UsageError(f"The data have no column {column!r}. Columns: {_listed(there)}.", hint=f"{what}=COLUMN")
            found[what] = column
        free = [name for name in there if name not in found.values()]
        by_lower = {name.lower().replace(" ", "_").replace("-", "_"): name for name in reversed(free)}
        for what, names in NAMES.items():
            if what not in found and (match := next((by_lower[n.lower()] for n in names if n.lower() in by_lower), None)):
                found[what] = match
        if "question" not in found:
            raise DataError(f"No column holds questions; there are {_listed(there)}.", hint="name it: --column question=COLUMN")
        if "choices" in found and "label" not in found and "answer" in found:  # the answer says which choice is right
            found["label"] = found.pop("answer")
        if "choices" in found and "label" not in found:
            raise DataError(
                f"The column {found['choices']!r} holds choices, and none says which is right; there are {_listed(there)}.",
                hint="name it: --column label=COLUMN",
            )
        if "choices" not in found:
            found.pop("label", None)
            if "answer" not in found:
                raise DataError(f"No column holds answers; there are {_listed(there)}.", hint="name it: --column answer=COLUMN")
        return cls(**found, others=tuple(name for name in there if name not in found.values()))


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
                f"The prompt template has a place for {unknown[0]!r}; allowed are {_listed(PLACES)}.",
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


def own_task(data: Data, name: str, columns: Columns | None = None, asking: Asking | None = None) -> Task:
    """Make a task from the user's data.

    Args:
        data: The rows.
        name: Name of the task, for reports.
        columns: The columns; by default they are found by name.
        asking: How questions are turned into prompts.

    Raises:
        UsageError, DataError: See `Columns.of`.
    """
    columns, asking = columns or Columns.of(data), asking or Asking()
    common: dict[str, Any] = {
        "name": name,
        "files": (name,),
        "homepage": "",
        "published": {},
        "hub": None,
        "paper": NO_PAPER,
    }
    if columns.scored:
        return ChoiceTask(
            **common,
            description="own questions: is a right answer likelier than the wrong ones?",
            make_items=lambda rows: [_choice(row, columns, asking) for row in rows.rows],
            metrics=(
                Metric("accuracy", "a right answer has the highest sum of log-likelihoods", chance=share_of_right),
                Metric("accuracy_per_token", "the same by the mean of each token", chance=share_of_right),
            ),
            measure=choice_metrics,
        )
    stop = () if asking.message("", None) is not None else ("\n",)
    return GenerationTask(
        **common,
        description="own questions: is a known answer in the text?",
        make_items=lambda rows: own_items(rows, columns, asking),
        metrics=answers.METRICS,
        measure=partial(answers.measure, stop=stop),
        generation=Generation(asking.max_new_tokens, stop),
        chat=not stop,
    )


def own_items(data: Data, columns: Columns, asking: Asking) -> list[QuestionItem]:
    """The questions, to be answered with generated text.

    Raises:
        DataError: A row has no question or no answer.
    """
    return [_question(row, columns, asking) for row in data.rows]


def choice_metrics(item: ChoiceItem, scores: Sequence[float], tokens: Sequence[int]) -> dict[str, float]:
    """Whether the likeliest answer is right, by sums and by means per token: 0 or 1. A tie with a wrong answer is wrong.

    Raises:
        InputError: See `check_scores`.
    """
    check_scores(item, scores, tokens)

    def right(values: Sequence[float]) -> float:
        best_wrong = max(value for value, correct in zip(values, item.correct, strict=True) if not correct)
        return float(max(value for value, correct in zip(values, item.correct, strict=True) if correct) > best_wrong)

    means = per_token(scores, tokens)
    return {"accuracy": right(scores), "accuracy_per_token": right(means)}


def _choice(row: Row, columns: Columns, asking: Asking) -> ChoiceItem:
    right, wrong = _chosen(row, columns) if columns.choices else (_several(row, columns.answer), _several(row, columns.wrong))
    folded = {answers.normalized(text) or text for text in right}
    if both := [text for text in wrong if (answers.normalized(text) or text) in folded]:
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


def _listed(names: Any) -> str:
    return ", ".join(map(repr, names))
