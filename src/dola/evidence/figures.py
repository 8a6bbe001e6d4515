"""How a report writes numbers: means, differences, and what was evaluated."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dola.evidence.statistics import Comparison, Estimate

if TYPE_CHECKING:
    from dola.evidence.report import Report


def summary(report: Report) -> str:
    """One line on what was evaluated."""
    part = f"All {report.total}" if len(report.item_ids) == report.total else f"{len(report.item_ids)} of {report.total}"
    data = ", ".join(f"{origin.name} (SHA-256 {origin.sha256[:12]})" for origin in report.origins) or report.task
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return f"{part} items of {data}; seed {report.seed}; {versions}."


def cell(found: Estimate) -> str:
    """A mean with its interval, in percent."""
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def difference(found: Comparison) -> str:
    """A difference from vanilla with its interval, in points."""
    return f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def p_words(value: float) -> str:
    """A p-value after the letter p."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def quoted(names: Sequence[str]) -> str:
    """Names of rows in quotes, because they may contain commas."""
    *others, last = [f'"{name}"' for name in names]
    return f"{', '.join(others)} and {last}" if others else last
