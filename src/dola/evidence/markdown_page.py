"""A report as Markdown: the verdicts, one table, then the details."""

from __future__ import annotations

from dola.evidence.details import details
from dola.evidence.figures import cell, difference
from dola.evidence.report import Report
from dola.evidence.row_result import WayResult


def markdown(report: Report) -> str:
    """The whole report. Controls are in italics; verdicts of better or worse are bold."""
    lines = [f"### {report.task}, {report.model}, {report.dtype}", ""]
    if report.verdict:
        lines += [f"**{report.verdict}**", "", *(f"- {line}" for line in report.verdicts if len(report.verdicts) > 1), ""]
    if report.metrics:
        lines += ["| " + " | ".join(row) + " |" for row in _rows(report)]
        lines += ["", "In percent, with 95% intervals. Rows in italics are controls, which explain the others.", ""]
    lines += ["#### Details", ""]
    for section in details(report):
        lines += [f"**{section.title}**", "", *(f"- {line}" for line in section.lines), ""]
    if report.files:
        lines += ["**Written**", "", *(f"- {path}" for path in report.files), ""]
    return "\n".join(lines)


def _rows(report: Report) -> list[list[str]]:
    first = report.metrics[0]
    head = ["", *(f"{metric} (95% interval)" for metric in report.metrics), f"{first} against vanilla", "verdict"]
    rows = [head, ["---"] * len(head), *(_row(report, way) for way in report.ways)]
    if any(value is not None for value in report.chance.values()):
        chance = [report.chance[metric] for metric in report.metrics]
        rows.append(["*chance*", *("" if value is None else f"{100 * value:.1f}" for value in chance), "", ""])
    return rows


def _row(report: Report, way: WayResult) -> list[str]:
    found = way.comparisons.get(report.metrics[0])
    name = f"*{way.name}*" if way.control else way.name
    against = "" if found is None else difference(found)
    verdict = report.short_verdict(way)
    if verdict in ("better", "worse"):
        verdict = f"**{verdict}**"
    return [name, *(cell(way.estimates[metric]) for metric in report.metrics), against, verdict]
