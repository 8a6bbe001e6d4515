"""Options of `dola eval` on the course of a run, and the lines that it prints meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from dola.cli.output import note, say

Sequential = Annotated[
    bool,
    typer.Option(
        "--sequential",
        help="Look at the results after 25, 50 and 75% of the items, and stop rows that are decided. Not for lm-eval:TASK.",
    ),
]


def teller(*, json: bool) -> Callable[[str], None]:
    """What prints lines about a run: on stderr; with --json only if that is a terminal."""
    return note if json else say
