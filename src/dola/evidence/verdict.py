"""The tests that decide what a report may say of each row beside vanilla (`finding.Verdict`).

The rows that are judged are one family, on one metric that is named before the run. Holm's procedure (Holm 1979) keeps the
chance that any of them is called better or worse without an effect at 5%. Right or wrong is tested by McNemar's exact test;
other values, and all values where items come in groups, by flipping the signs of whole groups (`paired.sign_flip`).

A sequential run looks at its items several times, in an order that was drawn before. Each row spends its level over the looks
(`looks`), within Holm (Maurer and Bretz 2013).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from dola.errors import InputError
from dola.evidence.finding import SMALLEST, Finding, Verdict
from dola.evidence.looks import nominal_levels
from dola.evidence.paired import Floats, Labels, differences, interval, p_values, variance

ALPHA = 0.05
POWER = 0.8


def judge(
    baseline: Sequence[float],
    rows: Mapping[str, Sequence[float]],
    *,
    smallest: float = SMALLEST,
    groups: Sequence[object] | None = None,
    higher_is_better: bool = True,
    looks: Sequence[int] = (),
    seed: int = 0,
) -> dict[str, Finding]:
    """A finding for each row of a family.

    Args:
        baseline: The baseline's value of each item; in [0, 1] where a hundredth is to be a point.
        rows: By name, the values of the same items in the same order. In a sequential run a row may end at an earlier look.
        smallest: The size of difference that matters, on the scale of the values.
        groups: The group of each item, where items belong together (questions on one text). Groups are the units then.
        higher_is_better: What "better" means.
        looks: For a sequential run: the number of items before each look, ascending; the last one is the planned total. Items
            are in the order that was drawn, and may end at any look. Empty for a run that is judged once.
        seed: Seed of the sign flips and the bootstrap.

    Raises:
        InputError: No items, different numbers of them, values that are not finite, or items that end between two looks.
    """
    if not 0 < smallest < math.inf:
        raise InputError(f"smallest={smallest} is out of range; allowed are numbers above 0.", hint="0.02 is 2 points")
    if not rows:
        return {}
    planned = list(looks) or [len(baseline)]
    apart = [_apart(baseline, name, values, planned) for name, values in rows.items()]
    labels = _labels(groups, len(baseline))
    done = [end for end in planned if end <= len(baseline)]
    if not done or done[-1] != len(baseline):
        raise InputError(f"{len(baseline)} items end between the looks {planned}.", hint="judge after a whole look")
    tested = _tested((baseline, *rows.values()), apart, labels, done, seed)
    shares = [end / planned[-1] for end in planned]
    inside = [_first_inside(values, labels, done, shares, smallest, seed) for values in apart]
    for column, at in enumerate(inside):
        if at is not None:  # the row has stopped: what it would have shown later has no say
            tested[at + 1 :, column] = 1.0
    decided = decide(tested, shares)
    ended = [_ended(at, stopped, len(of), done) for at, stopped, of in zip(decided, inside, apart, strict=True)]
    adjusted = holm(tested[ended, range(len(rows))])
    found = {}
    for column, name in enumerate(rows):
        look = ended[column]
        values, mine = apart[column][: done[look]], _part(labels, done[look])
        low, high = interval(values, mine, seed=seed)
        difference = float(values.mean())
        if decided[column] == look:
            verdict = Verdict.BETTER if (difference > 0) == higher_is_better else Verdict.WORSE
        else:
            verdict = Verdict.CANNOT_TELL if inside[column] is None else Verdict.NO_DIFFERENCE
        found[name] = Finding(
            verdict=verdict,
            items=len(values),
            difference=difference,
            low=low,
            high=high,
            p_value=float(tested[look, column]),
            adjusted=float(adjusted[column]),
            needed=items_needed(variance(values, mine), smallest, family=len(rows)),
            smallest=smallest,
            look=None if not looks or verdict is Verdict.CANNOT_TELL else look + 1,
        )
    return found


def _apart(baseline: Sequence[float], name: str, values: Sequence[float], planned: Sequence[int]) -> Floats:
    """A row less the baseline, on the items that the row has: all, or those up to a look."""
    shared = baseline[: len(values)] if len(values) in planned else baseline
    return differences(shared, {name: values})[:, 0]


def _tested(
    given: Sequence[Sequence[float]], apart: Sequence[Floats], labels: Labels | None, done: Sequence[int], seed: int
) -> Floats:
    """p-values [looks, rows] at the looks that were taken; 1 where a row has ended.

    Whether values are right or wrong is asked of the items up to each look, so that later items change no earlier decision.
    """
    found = np.ones((len(done), len(apart)))
    for look, end in enumerate(done):
        there = [column for column, values in enumerate(apart) if len(values) >= end]
        if there:
            binary = all(value in (0, 1) for values in given for value in values[:end])
            columns = np.stack([apart[column][:end] for column in there], axis=1)
            found[look, there] = p_values(columns, _part(labels, end), binary=binary, seed=seed)
    return found


def _first_inside(
    values: Floats, labels: Labels | None, done: Sequence[int], shares: Sequence[float], smallest: float, seed: int
) -> int | None:
    """The first look at which a row's interval lies inside ±smallest."""
    for look, end in enumerate(done):
        if end <= len(values) and _inside(values[:end], _part(labels, end), shares, look, smallest, seed):
            return look
    return None


def _ended(decided: int | None, inside: int | None, items: int, done: Sequence[int]) -> int:
    """The look that a row's finding rests on: the first that decided it, or its last."""
    last = max(look for look, end in enumerate(done) if end <= items)
    return min((look for look in (decided, inside) if look is not None), default=last)


def decide(tested: Floats, shares: Sequence[float], *, alpha: float = ALPHA) -> list[int | None]:
    """At which look each row is found to differ, if at any.

    Args:
        tested: p-values [looks so far, rows].
        shares: Share of the items after each planned look, the last one 1.
        alpha: Level of the family.
    """
    decided: list[int | None] = [None] * tested.shape[1]
    for look in range(len(tested)):
        while open_rows := [row for row, at in enumerate(decided) if at is None]:
            level = nominal_levels(alpha / len(open_rows), shares)[look]
            best = min(open_rows, key=lambda row: tested[look, row])
            if tested[look, best] > level:
                break
            decided[best] = look
    return decided


def holm(tested: Floats) -> Floats:
    """p-values within their family, by Holm's procedure: below the level where it rejects."""
    order = np.argsort(tested, kind="stable")
    steps = tested[order] * np.arange(len(tested), 0, -1)
    found = np.empty_like(tested)
    found[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return found


def items_needed(of_variance: float, smallest: float, *, family: int = 1) -> int | None:
    """Items at which a difference of `smallest` is found with 80% power at the family's strictest level.

    By the normal approximation. None where values never differ.
    """
    if of_variance <= 0:
        return None
    normal = NormalDist()
    z = normal.inv_cdf(1 - ALPHA / (2 * family)) + normal.inv_cdf(POWER)
    return math.ceil(of_variance * (z / smallest) ** 2)


def _inside(values: Floats, labels: Labels | None, shares: Sequence[float], look: int, smallest: float, seed: int) -> bool:
    """Whether the interval, widened for looking several times, lies inside ±smallest.

    One unit that changes fully for the better and one for the worse are added (in the spirit of Agresti and Min 2005): else a
    few items that do not differ would have an interval without width.
    """
    full = max(1.0, float(np.abs(values).max()))
    values = np.concatenate([values, [full, -full]])
    if labels is not None:
        labels = np.concatenate([labels, [labels.max() + 1, labels.max() + 2]])
    low, high = interval(values, labels, seed=seed)
    mean, normal = float(values.mean()), NormalDist()
    wider = -normal.inv_cdf(nominal_levels(ALPHA, shares)[look] / 2) / normal.inv_cdf(1 - ALPHA / 2)
    return -smallest < mean - wider * (mean - low) and mean + wider * (high - mean) < smallest


def _labels(groups: Sequence[object] | None, items: int) -> Labels | None:
    if groups is None:
        return None
    if len(groups) != items:
        raise InputError(f"{len(groups)} groups are named for {items} items.", hint="name one for each item")
    return np.unique(np.array([str(group) for group in groups]), return_inverse=True)[1]


def _part(labels: Labels | None, end: int) -> Labels | None:
    return None if labels is None else labels[:end]
