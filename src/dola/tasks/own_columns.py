"""Which column of the user's own questions is what, whatever the file calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dola.errors import DataError, UsageError
from dola.tasks.data import Data

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
                swapped = f"--column {column}={what}" if column in NAMES and what in there else "--column question=COLUMN"
                raise UsageError(f"{what!r} is not a kind of column; there are {listed(NAMES)}.", hint=swapped)
            if column not in there:
                raise UsageError(
                    f"The data have no column {column!r}. Columns: {listed(there)}.",
                    hint=f"--column {what}={(get_close_matches(column, there) or ['COLUMN'])[0]}",
                )
            found[what] = column
        free = [name for name in there if name not in found.values()]
        by_lower = {name.lower().replace(" ", "_").replace("-", "_"): name for name in reversed(free)}
        for what, names in NAMES.items():
            if what not in found and (match := next((by_lower[n.lower()] for n in names if n.lower() in by_lower), None)):
                found[what] = match
        if "question" not in found:
            raise DataError(
                f"No column holds questions; there are {listed(there)}.",
                hint="name it: --column question=COLUMN; the first line of a table names its columns",
            )
        if "choices" in found and "label" not in found and "answer" in found:  # the answer says which choice is right
            found["label"] = found.pop("answer")
        if "choices" in found and "label" not in found:
            raise DataError(
                f"The column {found['choices']!r} holds choices, and none says which is right; there are {listed(there)}.",
                hint="name it: --column label=COLUMN",
            )
        if "choices" not in found:
            found.pop("label", None)
            if "answer" not in found:
                raise DataError(f"No column holds answers; there are {listed(there)}.", hint="name it: --column answer=COLUMN")
        for what in ("question", "answer", "wrong", "choices", "label"):
            if what in found and not any(_filled(row.fields.get(found[what])) for row in data.rows):
                where = "the only row" if len(data.rows) == 1 else f"all {len(data.rows):,} rows"
                raise DataError(
                    f"The column {found[what]!r} is empty in {where}.",
                    hint=f"fill it, or name another: --column {what}=COLUMN",
                )
        return cls(**found, others=tuple(name for name in there if name not in found.values()))


def _filled(value: Any) -> bool:
    """Whether a cell holds anything but white space."""
    return value is not None and bool("".join(map(str, value)).strip() if isinstance(value, list) else str(value).strip())


def listed(names: Any) -> str:
    """Names in quotes, for a sentence."""
    return ", ".join(map(repr, names))
