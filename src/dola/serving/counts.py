"""Counts of a running engine: rows by method, and how many of them no layer could change."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

PLAIN = "plain"
"""The method of rows and requests that are decoded without DoLa."""


@dataclass
class Counts:
    """Rows since the counts were last taken.

    Attributes:
        rows: Method -> number of rows of logits. A request has one for each token, and with drafts one for each draft too.
        settled: Method -> number of rows that were not contrasted, because no layer could change their token.
    """

    rows: Counter[str] = field(default_factory=Counter)
    settled: Counter[str] = field(default_factory=Counter)

    def add(self, method: str, rows: int, settled: int = 0) -> None:
        """Add rows of a method."""
        if rows:
            self.rows[method] += rows
            self.settled[method] += settled

    def take(self) -> Counts:
        """What was counted since the last call."""
        taken = Counts(self.rows, self.settled)
        self.rows, self.settled = Counter(), Counter()
        return taken
