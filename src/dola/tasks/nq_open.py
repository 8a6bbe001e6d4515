"""NQ-open (Kwiatkowski et al. 2019; Lee et al. 2019): questions that people typed, answered without a text to look them up in.

Five questions with answers come before each one, and an answer is right where it equals a known one after normalization
(`answers.exact_match`). The five are our own, so they are in no split of the data.
"""

from __future__ import annotations

from collections.abc import Mapping

from dola.tasks import answers
from dola.tasks.data import Data
from dola.tasks.items import QuestionItem
from dola.tasks.own import Asking, Columns, own_items

PUBLISHED: Mapping[str, str] = {}
STOP = ("\n",)
_SHOTS = (
    ("what is the capital of australia", "Canberra"),
    ("who painted the ceiling of the sistine chapel", "Michelangelo"),
    ("how many strings does a violin have", "four"),
    ("what is the chemical symbol for gold", "Au"),
    ("when did the berlin wall fall", "1989"),
)


def items(data: Data) -> list[QuestionItem]:
    """The questions, with five before each.

    Raises:
        DataError: A row has no question or no answer.
    """
    asking = Asking(shots=tuple(({"question": question}, answer) for question, answer in _SHOTS))
    return own_items(data, Columns.of(data), asking)


def metrics(item: QuestionItem, text: str) -> dict[str, float]:
    """exact_match, contains, f1, answered and refused: see `answers`."""
    measured = answers.measure(item, text, STOP)
    return {metric.name: measured[metric.name] for metric in METRICS}


METRICS = (answers.EXACT, answers.CONTAINS, answers.F1, answers.ANSWERED, answers.REFUSED)
