"""How well numbers separate right answers from wrong ones: the area under the ROC curve (AUROC), with bootstrap intervals.

AUROC is the probability that a right answer has a higher number than a wrong one; equal numbers count half, as average ranks
do (Mann and Whitney 1947). 0.5 separates nothing. All numbers are resampled together, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dola.errors import InputError
from dola.evidence.statistics import LEVEL, resampled_counts
from dola.evidence.verdict import holm

Floats = NDArray[np.float64]

FEWEST_OF_EACH = 10
"""With fewer right or fewer wrong answers nothing is called better than the control: the intervals would be too narrow."""


@dataclass(frozen=True)
class Separation:
    """How well one signal separates right answers from wrong ones.

    Attributes:
        auroc: Probability that a right answer has the higher value.
        low, high: Ends of its 95% interval.
        difference: AUROC less that of the control.
        difference_low, difference_high: Ends of its 95% interval, paired.
        p_value: Two-sided p-value of the difference from the control or, if that is larger, from 0.5: a control may point the
            other way, and then a number that separates nothing has a higher AUROC. Of this signal by itself.
        adjusted: The same within the family, by Holm's procedure.
    """

    auroc: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    p_value: float
    adjusted: float

    @property
    def beats(self) -> bool:
        """Whether it separates right from wrong, and better than the control: statistically significant within the family."""
        return self.auroc > 0.5 and self.difference > 0 and self.adjusted < 1 - LEVEL


def auroc(values: Sequence[float] | Floats, right: Sequence[bool] | NDArray[np.bool_], counts: Floats | None = None) -> Floats:
    """The area under the ROC curve, [draws].

    Args:
        values: A number for each answer, [n]; higher should mean right.
        right: Whether each answer is right, [n].
        counts: How often each answer counts, [draws, n]; once in a single draw where it is None.

    Returns:
        NaN for draws without a right or without a wrong answer.
    """
    numbers, is_right = np.asarray(values, dtype=np.float64), np.asarray(right, dtype=bool)
    if counts is None:
        counts = np.ones((1, len(numbers)))
    order = np.argsort(numbers, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(numbers[order]) != 0]))  # where each distinct number begins
    ordered = counts[:, order]
    good = np.add.reduceat(ordered * is_right[order], starts, axis=1)
    bad = np.add.reduceat(ordered * ~is_right[order], starts, axis=1)
    below = bad.cumsum(axis=1) - bad
    pairs = good.sum(axis=1) * bad.sum(axis=1)
    won = (good * (below + bad / 2)).sum(axis=1)
    found: Floats = np.divide(won, pairs, out=np.full(len(counts), np.nan), where=pairs > 0)
    return found


def separate(
    values: Mapping[str, Sequence[float]],
    controls: Mapping[str, Sequence[float]],
    right: Sequence[bool],
    *,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> tuple[str, dict[str, Separation]]:
    """Compare signals with the best of some controls on the same answers.

    The control to beat is the one with the highest AUROC on these answers, which can only make it harder to beat.

    Args:
        values: By signal, a number for each answer; higher should mean right.
        controls: The same for the controls.
        right: Whether each answer is right.
        groups: The group of each answer, where answers belong together. Whole groups are drawn then.
        seed: Seed of the bootstrap.

    Returns:
        The name of the control to beat, and a result for each signal and each control. Controls are not in the family.

    Raises:
        InputError: No right or no wrong answers, or a number that is not finite.
    """
    both = {**values, **controls}
    _check(both, right)
    labels = None if groups is None else _labels(groups)
    point = {name: float(auroc(of, right)[0]) for name, of in both.items()}
    drawn = _drawn(both, right, labels, seed)
    beaten = max(controls, key=lambda name: point[name])
    p_values = {name: max(_p_value(drawn[name] - drawn[beaten]), _p_value(drawn[name] - 0.5)) for name in values}
    adjusted = dict(zip(values, holm(np.array(list(p_values.values()))), strict=True))
    found = {}
    for name in both:
        low, high = _interval(drawn[name])
        difference_low, difference_high = _interval(drawn[name] - drawn[beaten])
        found[name] = Separation(
            auroc=point[name],
            low=low,
            high=high,
            difference=point[name] - point[beaten],
            difference_low=difference_low,
            difference_high=difference_high,
            p_value=p_values.get(name, 1.0),
            adjusted=float(adjusted.get(name, 1.0)),
        )
    return beaten, found


def _labels(groups: Sequence[object]) -> NDArray[np.intp]:
    """The number of each answer's group, in the order in which groups appear."""
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.intp)


def _drawn(
    values: Mapping[str, Sequence[float]], right: Sequence[bool], labels: NDArray[np.intp] | None, seed: int
) -> dict[str, Floats]:
    """AUROC of each signal in the same draws of answers, or of whole groups."""
    found: dict[str, list[Floats]] = {name: [] for name in values}
    units = len(right) if labels is None else int(labels.max()) + 1
    for counts in resampled_counts(units, seed=seed):
        of_answers = counts if labels is None else counts[:, labels]
        for name, of in values.items():
            found[name].append(auroc(of, right, of_answers))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def _interval(draws: Floats) -> tuple[float, float]:
    """The middle 95% of the draws that have right and wrong answers."""
    low, high = np.nanquantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _p_value(differences: Floats) -> float:
    """Two-sided: twice the share of draws on the other side of 0. One draw is added, so that it is never 0."""
    known = differences[~np.isnan(differences)]
    tail = min(int((known <= 0).sum()), int((known >= 0).sum()))
    return min(1.0, 2 * (tail + 1) / (len(known) + 1))


def _check(values: Mapping[str, Sequence[float]], right: Sequence[bool]) -> None:
    for name, of in values.items():
        if len(of) != len(right):
            raise InputError(f"{name} has {len(of)} values for {len(right)} answers.", hint="give one for each answer")
        if not np.isfinite(of).all():
            raise InputError(f"Value {int((~np.isfinite(of)).argmax())} of {name} is not finite.", hint="look at that answer")
    if len(set(right)) != 2:
        kind = "right" if all(right) else "wrong"
        raise InputError(f"All {len(right)} answers are {kind}; nothing can be separated.", hint="take more items")
