"""Prints a report on a terminal: the verdicts, one table, then the details."""

from __future__ import annotations

from textwrap import wrap

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from dola.evidence.changed import Change, shortened, telling_row
from dola.evidence.figures import cell
from dola.evidence.report import Report
from dola.evidence.row_result import WayResult
from dola.evidence.statistics import Comparison

FEW = 3
"""Changed items of each kind that fit a terminal."""


def render(console: Console, report: Report) -> None:
    """Print a report, within the width of the console."""
    console.print(Text(f"{report.task}, {report.model}, {report.dtype}"))
    if report.verdict:
        console.print(Text(report.verdict, style="bold"))
    if len(report.verdicts) > 1:  # one is the headline already
        _print_list(console, report.verdicts)
    if report.metrics:
        console.print()
        _print_table(console, report)
    console.print()
    console.print(Text("Details", style="bold"))
    for section in report.details:
        console.print(Text(section.title, style="bold"))
        _print_list(console, section.lines)
    _print_changes(console, report)
    for path in report.files:
        console.print(Text(path), soft_wrap=True)


def _print_changes(console: Console, report: Report) -> None:
    """Print a few of the items that one row changed most."""
    if (row := telling_row(report)) is None:
        return
    console.print(Text(f'Answers that "{row}" changed most', style="bold"))
    for kind, changes in (("better", report.changed[row].better), ("worse", report.changed[row].worse)):
        _print_list(console, [_change(each, kind) for each in changes[:FEW]])
    console.print(
        Text("All items and rows are in the report of --html FILE. --markdown and --json list ten of each kind for every row.")
    )


def _change(change: Change, kind: str) -> str:
    moved = "" if change.mass is None else f", probability of right answers from {change.mass[0]:.0%} to {change.mass[1]:.0%}"
    right = " | ".join(change.right) or "not known"
    before, after = shortened(change.before), shortened(change.after)
    answers = f'both: "{before}"' if before == after else f'vanilla: "{before}"; now: "{after}"'
    return f'{kind}, item {change.id}: "{shortened(change.question)}" {answers}; right: "{shortened(right)}"{moved}'


def _print_list(console: Console, lines: list[str]) -> None:
    """Print lines as a list, wrapped after its dashes."""
    for line in lines:
        wrapped = wrap(line, console.width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
        console.print(Text("\n".join(wrapped)), soft_wrap=True)


def _print_table(console: Console, report: Report) -> None:
    """Print as much of the table as fits: first it has no intervals of means, then no verdicts, then fewer metrics."""
    count = len(report.metrics)
    forms = [(count, True, True), (count, False, True), *((fewer, False, False) for fewer in range(count, 0, -1))]
    tables = (_table(report, report.metrics[:shown], intervals, verdicts) for shown, intervals, verdicts in forms)
    (shown, _, verdicts), table = next(
        ((form, table) for form, table in zip(forms, tables, strict=True) if _fits(console, table)),
        (forms[-1], _table(report, report.metrics[:1], intervals=False, verdicts=False)),
    )
    console.print(table)
    if left := report.metrics[shown:]:
        console.print(Text(f"Too wide for this terminal: {', '.join(left)}. --markdown and --json have them."))
    above = "" if verdicts or not report.verdicts else " The verdicts are above the table."
    console.print(Text(f"In percent. The difference has its 95% interval in brackets.{above}"))


def _fits(console: Console, table: Table) -> bool:
    return Measurement.get(console, console.options.update(max_width=1000), table).maximum <= console.width


def _table(report: Report, metrics: list[str], intervals: bool, verdicts: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    table.add_column("", overflow="fold")
    for metric in metrics:
        table.add_column(metric.replace("_", "_\n", 1).replace(",", ",\n"), justify="right", no_wrap=True, vertical="bottom")
    table.add_column(f"{report.metrics[0]}\nagainst vanilla", no_wrap=True, vertical="bottom")
    if verdicts:
        table.add_column("verdict", no_wrap=True, vertical="bottom")
    for way in report.ways:
        if not way.control:
            table.add_row(*_row(report, way, metrics, intervals=intervals, verdicts=verdicts))
    if any(way.control for way in report.ways):
        table.add_section()
        table.add_row(Text("Controls", style="bold"))
    for way in report.ways:
        if way.control:
            table.add_row(*_row(report, way, metrics, intervals=intervals, verdicts=verdicts))
    if any(value is not None for value in report.chance.values()):
        chance = [report.chance[metric] for metric in metrics]
        table.add_row("chance", *("" if value is None else f"{100 * value:.1f}" for value in chance))
    return table


def _row(report: Report, way: WayResult, metrics: list[str], *, intervals: bool, verdicts: bool) -> list[str | Text]:
    found = way.comparisons.get(report.metrics[0])
    means = [cell(way.estimates[metric]) if intervals else f"{100 * way.estimates[metric].mean:.1f}" for metric in metrics]
    judged = [report.short_verdict(way)] if verdicts else []
    return [Text(way.name), *means, Text("" if found is None else _short(found)), *judged]


def _short(found: Comparison) -> str:
    """A difference with its interval, in points, usually in 21 characters."""
    return f"{100 * found.difference:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
