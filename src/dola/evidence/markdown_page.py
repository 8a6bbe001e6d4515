"""A report as Markdown: the verdicts, one table, then the details."""

from __future__ import annotations

import html

from dola.evidence.changed import Change, shortened
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
    for section in report.details:
        lines += [f"**{section.title}**", "", *(f"- {line}" for line in section.lines), ""]
    lines += [line for name in report.changed for line in _changes(report, name)]
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


def _changes(report: Report, row: str) -> list[str]:
    """The items that a row changed most, folded away."""
    found = report.changed[row]
    if not found.better and not found.worse:
        return []
    lines = ["<details>", f"<summary>Answers that {html.escape(row)} changed most</summary>", ""]
    for kind, changes in (("better", found.better), ("worse", found.worse)):
        if changes:
            lines += [
                f"For the {kind}:",
                "",
                f"| item | question | vanilla | {_cell(row)} | right | values |",
                "|" + " --- |" * 6,
            ]
            lines += [f"| {' | '.join(_change(each))} |" for each in changes]
            lines.append("")
    return [*lines, "</details>", ""]


def _change(change: Change) -> list[str]:
    moved = "" if change.mass is None else f", probability {change.mass[0]:.0%} to {change.mass[1]:.0%}"
    texts = [change.id, change.question, change.before, change.after, " / ".join(change.right)]
    return [*map(_cell, texts), f"{change.values[0]:g} to {change.values[1]:g}{moved}"]


def _cell(text: str) -> str:
    """A text in a cell: on one line, shortened, without markup."""
    shown = html.escape(shortened(text, 300), quote=False)
    return "".join(f"\\{each}" if each in "\\`*_[]|" else each for each in shown)
