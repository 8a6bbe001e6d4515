"""Files that `dola eval` writes beside what it prints: the report as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dola.cli.output import note
from dola.files.whole_file import write_whole

if TYPE_CHECKING:
    from dola.evidence.report import Report

Html = Annotated[Path | None, typer.Option(help="Also write the report as one HTML page, with all items to browse.")]


def write_html(report: Report, path: Path | None) -> None:
    """Write the page, if it was asked for."""
    if path is None:
        return
    from dola.evidence.html_page import page

    write_whole(path, page(report))
    note(f"wrote {path}")
