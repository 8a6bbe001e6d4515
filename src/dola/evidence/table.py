"""Prints a report on a terminal: one table with controls below, then sentences that interpret it."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dola.evidence.report import Report, WayResult, cell, summary
from dola.evidence.statistics import Comparison

WIDE = 130
"""From this width on, every metric has its interval; on a narrower terminal, only the difference from vanilla."""


def render(console: Console, report: Report) -> None:
    """Print a report. A star marks a statistically significant difference from vanilla."""
    console.print(Text(f"{report.task}, {report.model}, {report.dtype}", style="bold"))
    if report.verdict:
        console.print(Text(report.verdict, style="bold"))
    console.print(Text(summary(report)))
    if report.metrics:
        console.print(_table(report, intervals=console.width >= WIDE))
        console.print()
        console.print(Text("In percent, 95% intervals; *: differs significantly from vanilla, on the same items."))
    for line in [*report.sentences, *report.layers_chosen, *report.notes]:
        console.print(Text(f"- {line}"))
    for path in report.files:
        console.print(Text(path), soft_wrap=True)


def _table(report: Report, *, intervals: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("")
    for metric in report.metrics:
        table.add_column(metric.replace("_", "_\n"), justify="right", overflow="fold", vertical="bottom")
    table.add_column(f"{report.metrics[0]} against vanilla", vertical="bottom")
    for way in report.ways:
        if not way.control:
            table.add_row(*_row(report, way, intervals=intervals))
    table.add_section()
    table.add_row(Text("Controls", style="bold"))
    for way in report.ways:
        if way.control:
            table.add_row(*_row(report, way, intervals=intervals))
    if any(value is not None for value in report.chance.values()):
        chance = [report.chance[metric] for metric in report.metrics]
        table.add_row("chance", *("" if value is None else f"{100 * value:.1f}" for value in chance), "")
    return table


def _row(report: Report, way: WayResult, *, intervals: bool) -> list[str]:
    found = way.comparisons.get(report.metrics[0])
    cells = [
        cell(way.estimates[metric]) if intervals else f"{100 * way.estimates[metric].mean:.1f}" for metric in report.metrics
    ]
    return [way.name, *cells, "" if found is None else _short(found)]


def _short(found: Comparison) -> str:
    """A difference with its interval, in points, usually in 21 characters."""
    star = "*" if found.significant else ""
    return f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]{star}"
