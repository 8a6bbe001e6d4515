"""NQ-open (Kwiatkowski et al. 2019; Lee et al. 2019): questions from web searches, answered without a text to look them up in.

Five questions with answers precede each question. An answer is right if it equals a known one after normalization
(`answers.exact_match`). The five were written for dola, so no split of the data contains them.
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
    """The questions, each after the five examples.

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
