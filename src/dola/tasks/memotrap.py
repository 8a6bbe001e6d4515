"""MemoTrap (Liu and Liu 2023): does a model follow an instruction that contradicts a saying it has memorized?

The data set consists of four files of one layout: a `prompt`, a list of `classes` (endings with their leading space), and the
`answer_index` of the ending that the instruction requires. Each file is a separate set, and other files of this layout can be
read as well. The paper did not run MemoTrap: the settings here are those of FACTOR, with the bucket for short answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from dola.errors import DataError
from dola.tasks.data import Data, Row
from dola.tasks.items import ChoiceItem, check_scores, per_token

PUBLISHED = {
    "1-proverb-ending.csv": "e6d1b4e6ec6bc90c22afb9138bafbdf276fbe252be705d44ff16fdb44d50bae7",
    "2-proverb-translation.csv": "2f78d1d18d80d839a36eaaa0143f7aacb73a827c2422d21a7ddf0c60400d5033",
    "3-hate-speech-ending.csv": "e9d020f85703f62fc56643f1fd5f3cae7deffaa6860017f8f4be278a7e09a36e",
    "4-history-of-science-qa.csv": "32144d7411aff7558ac8c64ba676e407e3e2931dea03f4154a521b373f5f962b",
}


def items(data: Data) -> list[ChoiceItem]:
    """Each row as a prompt with its endings, which follow it directly.

    Raises:
        DataError: A row lacks a field, has fewer than two endings or an empty one, or its index names none of them.
    """
    return [_item(row) for row in data.rows]


def _item(row: Row) -> ChoiceItem:
    endings = row.texts("classes")
    if len(endings) < 2 or not all(ending.strip() for ending in endings):
        raise DataError(
            f"{row.where}: the field 'classes' is {endings!r}; it needs two or more endings, none of them empty.",
            hint="""write it as JSON: [" first", " second"]""",
        )
    answer = _answer(row, len(endings))
    correct = tuple(index == answer for index in range(len(endings)))
    return ChoiceItem(str(row.number), row.text("prompt"), tuple(endings), correct, best=answer)


def _answer(row: Row, count: int) -> int:
    """The index of the right ending: a number, or digits as text in a table."""
    found = row.value("answer_index")
    allowed = [str(index) for index in range(count)]
    if isinstance(found, bool) or str(found).strip() not in allowed:
        raise DataError(
            f"{row.where}: the field 'answer_index' is {found!r}; allowed are {', '.join(allowed)}, one for each ending.",
            hint="count the endings in 'classes' from 0",
        )
    return int(found)


def metrics(item: ChoiceItem, scores: Sequence[float], tokens: Sequence[int]) -> dict[str, float]:
    """Whether one item is right, 0 or 1, by two rules. In both, the first ending wins ties.

    accuracy: the right ending has the highest sum of log-likelihoods. accuracy_per_token: it has the highest mean per token.
    Scores with a floor often tie, namely if both endings are implausible. The right ending is the first one in about half of
    the rows, so a scorer that only ties is at chance.

    Args:
        item: The item.
        scores: Sum of log-likelihoods of each ending, in nats.
        tokens: Number of tokens of each ending.

    Raises:
        InputError: See `check_scores`.
    """
    check_scores(item, scores, tokens)
    means = per_token(scores, tokens)
    return {"accuracy": _wins(item, scores), "accuracy_per_token": _wins(item, means)}


def _wins(item: ChoiceItem, values: Sequence[float]) -> float:
    """1 if the first of the highest values belongs to the right ending, otherwise 0."""
    return float(item.correct[max(range(len(values)), key=values.__getitem__)])
