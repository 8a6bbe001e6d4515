"""What `dola eval` writes beside what it prints: the report as a page, with traces of some items."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dola.cli.output import note
from dola.cli.values import between
from dola.errors import UsageError
from dola.files.whole_file import write_whole

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.tasks import Task

Html = Annotated[Path | None, typer.Option(help="Also write the report as one HTML page, with all items to browse.")]

TraceItems = Annotated[
    int,
    typer.Option(
        "--trace-items",
        help="Trace the answers to this many items, those that changed most: what each layer says, in --html and --json.",
        callback=between(0),
    ),
]


def check_traces(task: Task, count: int, html: Path | None, *, json: bool) -> None:
    """Refuse `--trace-items` where the traces would be lost, or the task has nothing to trace.

    Raises:
        UsageError: See above.
    """
    if not count:
        return
    if html is None and not json:
        raise UsageError("--trace-items needs a place for the traces.", hint="add --html report.html, or --json")
    from dola.evidence.item_traces import check_traceable

    check_traceable(task)


def write_html(report: Report, path: Path | None) -> None:
    """Write the page, if it was asked for."""
    if path is None:
        return
    from dola.evidence.html_page import page

    write_whole(path, page(report))
    note(f"wrote {path}")
