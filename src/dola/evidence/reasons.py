"""What explains a row's difference from vanilla: length, and the repetition penalty."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dola.evidence.statistics import compare, describe
from dola.evidence.ways import Role

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.row_result import WayResult


def reasons(report: Report) -> list[str]:
    """Sentences on each row that is proposed for use.

    Metrics other than the first are mentioned, without a verdict, if their interval excludes 0.
    """
    return [line for way in report.ways if not way.control and way.role is not Role.VANILLA for line in _of_row(report, way)]


def _of_row(report: Report, way: WayResult) -> list[str]:
    found = []
    for metric in report.metrics:
        significant = way.comparisons[metric].significant
        if metric != report.metrics[0] and significant:
            found.append(describe(way.comparisons[metric], metric, method=way.name))
        if metric == report.metrics[0] or significant:
            found += _length_explains(report, way, metric)
        if metric == report.metrics[0]:
            found += _against_penalty(report, way, metric)
    return found


def _against_penalty(report: Report, way: WayResult, metric: str) -> list[str]:
    """Also compare with vanilla at the way's repetition penalty: the rest of the difference is not due to the penalty."""
    if (control := report.with_role(Role.PENALTY)) is None:
        return []
    values = control.items[metric], way.items[metric]
    against = compare(*values, binary=all(value in (0, 1) for of in values for value in of), seed=report.seed)
    return [describe(against, metric, method=way.name, baseline=control.name)]


def _length_explains(report: Report, way: WayResult, metric: str) -> list[str]:
    """If a way gains: whether a scorer that only counts tokens does as well."""
    length, gain = report.with_role(Role.LENGTH), way.comparisons[metric]
    if length is None or not gain.significant or gain.difference <= 0:
        return []
    against = compare(length.items[metric], way.items[metric], binary=False, seed=report.seed)
    level = f"{100 * against.baseline:.1f} by counting tokens, {100 * against.method:.1f} by {way.name}"
    if against.difference <= 0:
        return [f"{metric}: the number of tokens explains the gain of {way.name}: {level}."]
    if against.low > 0:
        return [f"{metric}: the number of tokens alone does not reach {way.name}: {level}."]
    return [f"{metric}: on these items the gain of {way.name} is indistinguishable from a length-only scorer's: {level}."]
