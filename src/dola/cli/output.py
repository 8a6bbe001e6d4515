"""What every verb prints with: results on stdout, everything else on stderr, and JSON of a stated schema.

Nothing but the result goes to stdout, so that it can be piped. Colour is rich's affair: it is on only for terminals, and off
where NO_COLOR is set.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from dola import __version__


def stdout() -> Console:
    """The console for results."""
    return Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """The console for progress and notes."""
    return Console(stderr=True, highlight=False)


def print_json(schema: str, result: Mapping[str, Any]) -> None:
    """One JSON object on one line of stdout: `schema` is its name and version, as docs/cli.md documents it."""
    sys.stdout.write(json.dumps({"schema": schema, "dola": __version__, **result}, ensure_ascii=False) + "\n")
    sys.stdout.flush()
