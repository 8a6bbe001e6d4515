"""Tests at several looks before a run ends: how much of the significance level each may spend, so that looking often does not
cause false positives.

With two-sided level a, O'Brien and Fleming's rule as a spending function (Lan and DeMets 1983) has spent

    a(t) = 4 (1 - Phi(z / sqrt(t))),   z = Phi^-1(1 - a / 4)

after the share t of the items: very little early, nearly all at the end. The threshold of each look follows from the joint
distribution of the looks' statistics, a random walk, by Armitage, McPherson and Rowe's (1969) integration on a grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import NormalDist

import numpy as np

from dola.errors import InputError

LOOKS = (0.25, 0.5, 0.75, 1.0)
_NORMAL = NormalDist()
_GRID = np.linspace(-9, 9, 3601)


def ends(items: int, fractions: Sequence[float] = LOOKS) -> list[int]:
    """Number of items after which each look takes place: at least one, and all items for the last look."""
    return sorted({max(1, math.ceil(share * items)) for share in fractions} | {items})


def spent(alpha: float, share: float) -> float:
    """The part of the level that has been spent after a share of the items."""
    if share >= 1:
        return alpha
    return 4 * (1 - _NORMAL.cdf(_NORMAL.inv_cdf(1 - alpha / 4) / math.sqrt(share)))


def nominal_levels(alpha: float, shares: Sequence[float]) -> tuple[float, ...]:
    """The two-sided p-value that each look's test must not exceed, for looks after these shares of the items.

    Raises:
        InputError: The level is outside (0, 1), or the shares do not rise within (0, 1].
    """
    if not 0 < alpha < 1:
        raise InputError(f"The level {alpha} is out of range; allowed are numbers between 0 and 1.", hint="0.05")
    if not shares or any(not before < after for before, after in zip((0.0, *shares), (*shares, 1.5), strict=True)):
        raise InputError(f"The looks {list(shares)} do not rise from above 0 to 1.", hint="0.25, 0.5, 0.75, 1")
    if shares[-1] > 1:
        raise InputError(f"The looks {list(shares)} go beyond 1.", hint="0.25, 0.5, 0.75, 1")
    return _nominal_levels(alpha, tuple(shares))


@lru_cache(maxsize=512)
def _nominal_levels(alpha: float, shares: tuple[float, ...]) -> tuple[float, ...]:
    found = [max(spent(alpha, shares[0]), 1e-300)]
    if len(shares) == 1:
        return (found[0],)
    step = _GRID[1] - _GRID[0]
    scale = math.sqrt(shares[0])  # the walk at share t has variance t; the grid is in units of the last look's
    density = np.exp(-0.5 * (_GRID / scale) ** 2) / (scale * math.sqrt(2 * math.pi))
    density[np.abs(_GRID) >= _bound(found[0]) * scale] = 0
    for before, share in pairwise(shares):
        kernel = np.exp(-0.5 * (_GRID**2) / (share - before)) / math.sqrt(2 * math.pi * (share - before))
        density = np.convolve(density, kernel, mode="same") * step
        tail = np.cumsum((density + density[::-1])[::-1])[::-1] * step  # beyond each point, both sides
        budget = max(spent(alpha, share) - spent(alpha, before), 1e-300)
        at = float(np.interp(-budget, -tail[len(_GRID) // 2 :], _GRID[len(_GRID) // 2 :]))
        density[np.abs(_GRID) >= at] = 0
        found.append(2 * (1 - _NORMAL.cdf(at / math.sqrt(share))))
    return tuple(found)


def _bound(level: float) -> float:
    return -_NORMAL.inv_cdf(level / 2) if level > 1e-300 else 38.0
