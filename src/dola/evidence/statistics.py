"""Is the difference between two methods statistically significant? Paired comparisons of their values on the same items.

Intervals are 95% percentile bootstrap intervals over items (Efron 1979), seeded. Metrics that are 0 or 1 are also compared by
McNemar's exact test (McNemar 1947): among the items on which the methods differ, is the split more uneven than a fair coin's?
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dola.errors import InputError
from dola.evidence.finding import counted

RESAMPLES = 10_000
LEVEL = 0.95
FEWEST_ITEMS = 20
"""With fewer items no difference is called significant: bootstrap intervals of few items are too narrow."""

_CHUNK = 500
"""Number of resamples drawn at a time: it limits memory to 500 * items indices."""


@dataclass(frozen=True)
class Estimate:
    """A mean over items, and its 95% interval."""

    items: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same items.

    Attributes:
        items: Number of items.
        baseline: Mean of the baseline.
        method: Mean of the compared method.
        difference: Mean of (method - baseline).
        low: Lower end of the difference's 95% interval.
        high: Upper end of that interval.
        higher: Number of items on which the method scored higher. Whether that is better depends on the metric.
        lower: Number of items on which it scored lower.
        p_value: Two-sided p-value of McNemar's exact test; None for metrics that are not 0 or 1.
    """

    items: int
    baseline: float
    method: float
    difference: float
    low: float
    high: float
    higher: int
    lower: int
    p_value: float | None

    @property
    def significant(self) -> bool:
        """Whether the difference is statistically significant at the 5% level.

        The interval excludes 0, McNemar's test agrees if it applies, and there are enough items (`FEWEST_ITEMS`).
        """
        apart = self.low > 0 or self.high < 0
        return apart and self.items >= FEWEST_ITEMS and (self.p_value is None or self.p_value < 1 - LEVEL)


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """The mean of one method's values, one for each item, with its interval.

    Raises:
        InputError: No values were given, or one is not finite.
    """
    array = _checked(values, "values")
    low, high = percentile_interval(array, seed=seed)
    return Estimate(len(array), float(array.mean()), low, high)


def compare(baseline: Sequence[float], method: Sequence[float], *, binary: bool, seed: int = 0) -> Comparison:
    """Compare two methods by their values on the same items, in the same order.

    Args:
        baseline: The baseline's value of each item.
        method: The method's value of each item.
        binary: Whether the values are all 0 or 1, so that McNemar's test applies.
        seed: Seed of the bootstrap. The same seed and items give the same interval.

    Raises:
        InputError: No values, different numbers of values, a value that is not finite, or binary values other than 0 and 1.
    """
    before, after = _checked(baseline, "values of the baseline"), _checked(method, "values of the method")
    if len(before) != len(after):
        raise InputError(
            f"The baseline has {len(before)} values and the method {len(after)}; a paired comparison needs the same items.",
            hint="compare the items that both have scored",
        )
    if binary and not np.isin(np.concatenate([before, after]), (0, 1)).all():
        raise InputError("A binary metric has values other than 0 and 1.", hint="pass binary=False")
    differences = after - before
    low, high = percentile_interval(differences, seed=seed)
    higher, lower = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(
        items=len(differences),
        baseline=float(before.mean()),
        method=float(after.mean()),
        difference=float(differences.mean()),
        low=low,
        high=high,
        higher=higher,
        lower=lower,
        p_value=mcnemar(higher, lower) if binary else None,
    )


def mcnemar(higher: int, lower: int) -> float:
    """Two-sided p-value of McNemar's exact test: how likely does a fair coin split higher + lower at least this unevenly?

    Computed in whole numbers, so exact at any size; 1 if there is nothing to split.
    """
    total, fewer = higher + lower, min(higher, lower)
    tail = sum(math.comb(total, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << total))


def describe(comparison: Comparison, metric: str, *, method: str, baseline: str = "vanilla") -> str:
    """One sentence with both means, the difference with its interval, and whether it is significant; in percent and points.

    Args:
        comparison: The comparison to describe.
        metric: Name of the metric.
        method: Name of the method.
        baseline: Name of the baseline.
    """
    c = comparison
    direction = "higher" if c.difference > 0 else "lower"
    distance = f"{abs(100 * c.difference):.1f} points {direction}" if c.difference else "equal"
    test = "" if c.p_value is None else f"; McNemar p {_p(c.p_value)}"
    if c.significant:
        verdict = "statistically significant"
    elif c.items < FEWEST_ITEMS:
        verdict = f"{counted(c.items, 'items')} {'is' if c.items == 1 else 'are'} too few to decide"
    else:
        verdict = "not statistically significant"
    return (
        f"{metric}: {method} {100 * c.method:.1f} against {baseline} {100 * c.baseline:.1f} on {c.items} items, {distance} "
        f"(95% interval {100 * c.low:+.1f} to {100 * c.high:+.1f}{test}): {verdict}."
    )


def folds(n: int, k: int, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Split the indices 0..n-1 into k random folds: disjoint, complete, of sizes that differ by at most 1, each in order.

    Raises:
        InputError: Fewer than two folds, or fewer items than folds.
    """
    if not 2 <= k <= n:
        raise InputError(f"{n} items cannot be split into {k} folds. Allowed: 2 to {n}.", hint="use k=2, as the paper does")
    order = list(range(n))
    random.Random(seed).shuffle(order)
    return tuple(tuple(sorted(order[start::k])) for start in range(k))


def _checked(values: Sequence[float], what: str) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise InputError(f"The {what} are empty.", hint="score at least one item")
    if not np.isfinite(array).all():
        raise InputError(f"Number {int((~np.isfinite(array)).argmax())} of the {what} is not finite.", hint="look at that item")
    return array


def percentile_interval(
    sums: NDArray[np.float64], sizes: NDArray[np.float64] | None = None, *, seed: int = 0
) -> tuple[float, float]:
    """95% percentile bootstrap interval of a mean over items. If all values are equal, its width is 0.

    Args:
        sums: The value of each unit that is drawn, or the sum of its items.
        sizes: The number of items of each unit; one each where it is None.
        seed: Seed of the draws.
    """
    means = []
    for drawn in _resamples(len(sums), seed):
        means.append(sums[drawn].mean(axis=1) if sizes is None else sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resampled_counts(n: int, *, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """How often each of `n` units is in each of RESAMPLES draws, [some draws, n] at a time."""
    for drawn in _resamples(n, seed):
        places = drawn + n * np.arange(len(drawn))[:, None]
        yield np.bincount(places.ravel(), minlength=drawn.size).reshape(drawn.shape).astype(np.float64)


def _resamples(n: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """RESAMPLES draws of `n` of `n` units with replacement, as indices [some draws, n]."""
    generator = np.random.default_rng(seed)
    for _ in range(RESAMPLES // _CHUNK):
        yield generator.integers(n, size=(_CHUNK, n))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"
