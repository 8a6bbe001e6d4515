"""How long a run will take: one line for its rows and for each set of rows, after some seconds of the run itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dola.evidence.course import Tell
from dola.evidence.ways import Way

LEAST = 10.0
"""Seconds: the time of shorter runs is not announced, nor is that of other sets measured for it."""


@dataclass(frozen=True)
class Forecast:
    """What a run announces of its time.

    Attributes:
        sets: Returns the rows of each set, by name.
        tell: Prints the line.
        most: Whether the run may end earlier, as a sequential one does.
    """

    sets: Callable[[], Mapping[str, list[Way]]]
    tell: Tell
    most: bool = False

    def say(self, seconds: float, sets: Mapping[str, float]) -> None:
        """Announce the time of the run's rows and of each set."""
        self.tell(spoken(seconds, sets, most=self.most))


def spoken(seconds: float, sets: Mapping[str, float], *, most: bool = False) -> str:
    """For instance "about 4 minutes for these rows (--ways standard 4, methods 11, full 25)"."""
    unit, size = next((unit, size) for unit, size, until in _UNITS if seconds < until)
    one = unit.removesuffix("s") if _rounded(seconds, size) == "1" else unit
    others = ", ".join(f"{name} {_rounded(each, size)}" for name, each in sets.items())
    return f"{'at most ' if most else ''}about {_rounded(seconds, size)} {one} for these rows" + (
        f" (--ways {others})" if others else ""
    )


_UNITS = (("seconds", 1, 90), ("minutes", 60, 90 * 60), ("hours", 3600, math.inf))


def _rounded(seconds: float, size: int) -> str:
    """Two digits are all that such a number has."""
    value = seconds / size
    return f"{max(1, round(value))}" if size < 3600 or value >= 10 else f"{value:.1f}".removesuffix(".0")
