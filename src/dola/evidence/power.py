"""How large a difference must be for so many items to show it: the normal approximation of `verdict.items_needed`, reversed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from dola.evidence.finding import Finding, counted
from dola.evidence.verdict import ALPHA, POWER

DISCORDANT = 0.2
"""The share of items whose outcome a row changes, taken where nothing has run yet."""
MOST = 0.4
"""Above this difference a number would say little: the approximation is rough, and no row differs so much."""


def shown_difference(of_variance: float, items: int, *, family: int = 1, binary: bool = True) -> float:
    """The smallest difference that is found with 80% power, at the family's strictest level.

    Args:
        of_variance: Variance of the paired differences, times the number of items.
        items: Number of items.
        family: Number of rows that are judged together.
        binary: Whether values are right or wrong. Then a difference of d needs a share of at least d that changes.
    """
    normal = NormalDist()
    per_item = (normal.inv_cdf(1 - ALPHA / (2 * family)) + normal.inv_cdf(POWER)) ** 2 / items
    return max(math.sqrt(of_variance * per_item), per_item if binary else 0.0)


def shown_by(finding: Finding, *, family: int, binary: bool) -> float:
    """The same for a row that has run."""
    by_variance = 0.0 if finding.needed is None else finding.smallest * math.sqrt(finding.needed / finding.items)
    return max(by_variance, shown_difference(0.0, finding.items, family=family, binary=binary))


def fewest_items(family: int) -> int:
    """The fewest items with which a row can be called better or worse: all outcomes change, in one direction."""
    return math.ceil(math.log2(2 * family / ALPHA))


def power_line(items: int, shown: Sequence[float], unit: str = "items") -> str:
    """One sentence on the differences that so many items show.

    Args:
        items: Number of items.
        shown: The smallest difference of each row that they show. These rows are judged together.
        unit: What the items are called.
    """
    those, fewest = counted(items, unit), fewest_items(len(shown))
    if items < fewest:
        needed = f"{len(shown)} rows judged together need" if len(shown) > 1 else "it takes"
        return f"{those} cannot show any difference: {needed} at least {fewest}."
    few, most = (math.ceil(round(100 * value, 6)) for value in (min(shown), max(shown)))
    if few > 100 * MOST:
        return f"With {those}, only a difference of more than {100 * MOST:.0f} points can be detected."
    size, which = (f"{few}", "") if few == most else (f"{few} to {most}", " (depending on the row)")
    return f"With {those}, a difference of about {size} points or more{which} is detected in 80% of such runs."
