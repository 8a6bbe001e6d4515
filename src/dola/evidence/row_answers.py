"""What each row of a multiple-choice task answers, and how likely it finds the right answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from dola.evidence.choice import Values, length_scores
from dola.evidence.statistics import folds
from dola.evidence.ways import Role, Way
from dola.scoring.score import Scores
from dola.tasks import ChoiceTask
from dola.tasks.items import ChoiceItem

FOLDS = 2
"""The static row chooses on one half of the first items for the other (`held_out`)."""


@dataclass(frozen=True)
class Chosen:
    """One row's answers.

    Attributes:
        texts: For each item the answer that its first metric counts: the likeliest right one where the value is 1, the
            likeliest wrong one where it is 0. They are the likeliest of all, but for metrics that leave some answers out.
        mass: For each item the probability of the right answers among all of its answers.
    """

    texts: list[str]
    mass: list[float]


def chosen_answers(
    task: ChoiceTask,
    items: Sequence[ChoiceItem],
    scores: Scores,
    ways: Sequence[Way],
    values: Mapping[str, Values],
    *,
    static: Iterable[str],
    folded: Sequence[str],
    looks: Sequence[int] = (),
    seed: int,
) -> dict[str, Chosen]:
    """The answers of all rows, by name.

    Args:
        task, items, scores, ways: See `measure_ways`.
        values: What it returned: the metrics of each row.
        static: The fixed layers that the static row chooses from.
        folded: Which of them it chose for the first metric: for each fold, then for each later look.
        looks: Number of items before each look of a sequential run, in which rows may have ended early.
        seed: Seed of the folds and of the length control.
    """
    metric, candidates = task.metrics[0], list(static)

    def scores_of(way: Way, count: int) -> Callable[[int], Sequence[float]]:
        if way.role is Role.LENGTH:
            return lambda i: length_scores(items[i], scores.tokens[i], seed)
        if way.role is Role.STATIC:
            names = _names(candidates, folded, [*(end for end in looks if end < count), count], seed)
            return lambda i: scores.values[names[i]][i]
        return lambda i: scores.values[way.name][i]

    found = {}
    for way in ways:
        counted = values[way.name][metric.name]
        mine = items[: len(counted)]
        of_item = scores_of(way, len(counted))
        sums = [of_item(i) for i in range(len(counted))]
        texts = [
            _likeliest(item, of, value if metric.binary else None) for item, of, value in zip(mine, sums, counted, strict=True)
        ]
        found[way.name] = Chosen(texts, [_mass(item, of) for item, of in zip(mine, sums, strict=True)])
    return found


def _names(candidates: Sequence[str], folded: Sequence[str], ends: Sequence[int], seed: int) -> list[str]:
    """The candidate that judges each item: `held_out_by_looks`."""
    names = [candidates[0]] * ends[-1]
    count = min(FOLDS, len(folded)) if ends[0] >= FOLDS else 0
    if count:
        for name, part in zip(folded[:count], folds(ends[0], count, seed), strict=True):
            for i in part:
                names[i] = name
    for name, (start, end) in zip(folded[count:], pairwise(ends), strict=True):
        names[start:end] = [name] * (end - start)
    return names


def _likeliest(item: ChoiceItem, sums: Sequence[float], value: float | None) -> str:
    pool = [i for i, correct in enumerate(item.correct) if value is None or correct == (value == 1)]
    return item.continuations[max(pool, key=lambda i: sums[i])].strip()


def _mass(item: ChoiceItem, sums: Sequence[float]) -> float:
    top = max(sums)
    odds = [math.exp(value - top) for value in sums]
    return math.fsum(each for each, correct in zip(odds, item.correct, strict=True) if correct) / math.fsum(odds)
