"""Paired differences between rows and a baseline on the same items, with tests and intervals over items or groups of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dola.errors import InputError
from dola.evidence.statistics import mcnemar, percentile_interval

FLIPS = 20_000
EXACT_UNITS = 14
"""Largest number of units n for which all 2^n sign patterns are tried; above it, `FLIPS` random ones."""
_CHUNK = 500

Floats = NDArray[np.float64]
Labels = NDArray[np.intp]


def differences(baseline: Sequence[float], rows: Mapping[str, Sequence[float]]) -> Floats:
    """Row minus baseline, [items, rows].

    Raises:
        InputError: The baseline is empty, the numbers of items differ, or a value is not finite.
    """
    first = np.asarray(baseline, dtype=np.float64)
    if not first.size:
        raise InputError("The baseline has no values.", hint="score one item at least")
    for name, values in rows.items():
        if len(values) != len(first):
            raise InputError(
                f"The baseline has {len(first)} values and {name} {len(values)}; a paired comparison needs the same items.",
                hint="compare the items that both have scored",
            )
    found = np.stack([np.asarray(values, dtype=np.float64) for values in rows.values()], axis=1) - first[:, None]
    if not np.isfinite(found).all():
        item, column = np.argwhere(~np.isfinite(found))[0]
        raise InputError(f"A value of item {item} is not finite, in {list(rows)[column]} or the baseline.", hint="look at it")
    return found


def p_values(apart: Floats, labels: Labels | None = None, *, binary: bool, seed: int = 0) -> Floats:
    """Two-sided p-value of each row, [rows]: does it differ from the baseline?

    McNemar's exact test if values are 0 or 1 and items are independent; otherwise random sign flips of items or groups.

    Args:
        apart: Differences [items, rows].
        labels: The group of each item, as integers from 0.
        binary: Whether all values are 0 or 1.
        seed: Seed of the sign flips.
    """
    if binary and labels is None:
        return np.array([mcnemar(int((row > 0).sum()), int((row < 0).sum())) for row in apart.T])
    return sign_flip(apart if labels is None else group_sums(apart, labels), seed=seed)


def group_sums(apart: Floats, labels: Labels) -> Floats:
    """Sum of each group that occurs, [groups, rows]."""
    order, places = np.unique(labels, return_inverse=True)
    found = np.zeros((len(order), apart.shape[1]))
    np.add.at(found, places, apart)
    return found


def sign_flip(units: Floats, *, seed: int = 0) -> Floats:
    """Two-sided p-values of each column's sum: how often is it at least as large if the sign of each unit is random?

    Valid if, without an effect, a unit's difference is equally likely to be positive or negative (Fisher 1935).
    """
    n = len(units)
    signs = _all_signs(n) if n <= EXACT_UNITS else _drawn_signs(n, seed)
    observed = np.abs(units.sum(axis=0))
    slack = 1e-9 * np.abs(units).sum(axis=0)  # sums of the same terms in another order count as equal
    as_large = np.zeros(units.shape[1], dtype=np.int64)
    for start in range(0, len(signs), _CHUNK):
        as_large += (np.abs(signs[start : start + _CHUNK].astype(np.float64) @ units) >= observed - slack).sum(axis=0)
    if n <= EXACT_UNITS:
        return as_large / len(signs)
    return (as_large + 1) / (len(signs) + 1)


def interval(values: Floats, labels: Labels | None = None, *, seed: int = 0) -> tuple[float, float]:
    """95% percentile bootstrap interval (Efron 1979) of the mean of [items]. With labels, whole groups are drawn."""
    if labels is None:
        return percentile_interval(values, seed=seed)
    both = group_sums(np.stack([values, np.ones(len(values))], axis=1), labels)
    return percentile_interval(both[:, 0], both[:, 1], seed=seed)


def variance(values: Floats, labels: Labels | None = None) -> float:
    """Sampling variance of the mean, times the number of items. It is larger if the items of a group agree."""
    centered = values - values.mean()
    if labels is None:
        return float((centered**2).mean())
    return float((group_sums(centered[:, None], labels) ** 2).sum() / len(values))


@lru_cache(maxsize=4)
def _drawn_signs(n: int, seed: int) -> NDArray[np.int8]:
    """Signs [FLIPS, n]."""
    return (2 * np.random.default_rng([seed, n]).integers(0, 2, size=(FLIPS, n), dtype=np.int8) - 1).astype(np.int8)


def _all_signs(n: int) -> NDArray[np.int8]:
    patterns = np.arange(2**n)
    return (2 * ((patterns[:, None] >> np.arange(n)) & 1) - 1).astype(np.int8)
