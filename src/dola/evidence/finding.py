"""What a report may say of a row beside vanilla: better, worse, no difference that matters, or that it cannot tell.

`verdict.judge` decides it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

SMALLEST = 0.02
"""Smaller differences than 2 points do not matter, unless the user names another size."""


class Verdict(Enum):
    """What may be said of a row."""

    BETTER = "better"
    WORSE = "worse"
    NO_DIFFERENCE = "no difference"
    CANNOT_TELL = "cannot tell"


@dataclass(frozen=True)
class Finding:
    """One row beside the baseline.

    Attributes:
        verdict: What may be said.
        items: Number of items that it rests on: in a sequential run those up to the look that decided.
        difference: Mean of (row - baseline).
        low: Lower end of its 95% interval, of this row by itself.
        high: Upper end.
        p_value: Two-sided p-value of this row by itself.
        adjusted: The same within the family, by Holm's procedure; in a sequential run, of the looks that rows rest on.
        needed: Items at which a difference of `smallest` would be found with 80% power; None where values never differ.
        smallest: The size of difference that matters.
        look: The look of a sequential run that decided, from 1; None where none did, or where items were judged once.
    """

    verdict: Verdict
    items: int
    difference: float
    low: float
    high: float
    p_value: float
    adjusted: float
    needed: int | None
    smallest: float
    look: int | None = None

    @property
    def decided(self) -> bool:
        """Whether a row may stop: more items would not change what is said of it."""
        return self.verdict is not Verdict.CANNOT_TELL

    @property
    def disagrees(self) -> bool:
        """Whether the interval alone would say something else than the verdict."""
        apart = self.low > 0 or self.high < 0
        return apart != (self.verdict in (Verdict.BETTER, Verdict.WORSE))

    def sentence(self, name: str, unit: str = "items") -> str:
        """The verdict, then its numbers, in points."""
        points = f"{100 * self.smallest:g} points"
        said = f"no difference of {points} or more" if self.verdict is Verdict.NO_DIFFERENCE else self.verdict.value
        numbers = f"{100 * self.difference:+.1f} points ({100 * self.low:+.1f} to {100 * self.high:+.1f})"
        tail = "" if self.look is None else f", decided at look {self.look}"
        if self.verdict is Verdict.CANNOT_TELL:
            few = "none of them differs, which is too few to rule a difference out"
            tail = f"; {few}" if self.needed is None else f"; detecting {points} needs about {_rounded(self.needed):,}"
        return f"{name}: {said}. {numbers} on {counted(self.items, unit)}{tail}."


def headline(findings: Mapping[str, Finding], metric: str) -> str:
    """The answer in one sentence: who is better, or that nobody is."""
    by = {verdict: [name for name, each in findings.items() if each.verdict is verdict] for verdict in Verdict}
    if better := by[Verdict.BETTER]:
        best = max(better, key=lambda name: abs(findings[name].difference))  # all on the better side, be it above or below
        others = [name for name in better if name != best]
        also = f" So {'is' if len(others) == 1 else 'are'} {', '.join(others)}." if others else ""
        return f"{metric}: {findings[best].sentence(best)}{also}"
    if len(findings) == 1:
        [(name, only)] = findings.items()
        return f"{metric}: {only.sentence(name)}"
    found = [(len(names), verdict.value) for verdict, names in by.items() if names]
    nobody = "Neither row" if len(findings) == 2 else "No row"
    if len(found) == 1:
        rest = f'{"both" if len(findings) == 2 else f"all {len(findings)}"} verdicts are "{found[0][1]}"'
    else:
        parts = (f'{count} {"is" if count == 1 else "are"} "{word}"' for count, word in found)
        rest = f"of {len(findings)} verdicts, {', '.join(parts)}"
    return f'{nobody} is shown to be better than vanilla on "{metric}": {rest}.'


def counted(count: int, unit: str) -> str:
    """A number of things: "1 item", "12 items"."""
    return f"{count:,} {unit if count != 1 else unit.removesuffix('s')}"


def _rounded(count: int) -> int:
    """Two digits are all that such a number has."""
    return int(float(f"{count:.1e}"))
