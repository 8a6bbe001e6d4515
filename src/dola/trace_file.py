"""Files of traces: one on each line, as `dola trace --json` prints them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dola.errors import TraceError
from dola.layer_trace import LayerTrace
from dola.text_file import written_lines


def read_traces(path: Path, name: str) -> list[LayerTrace]:
    """The traces of a file, which messages call `name`.

    Raises:
        TraceError: A file that cannot be read, is empty, or has a line that is no whole trace of this version.
    """
    written = written_lines(path, name=name, error=TraceError, hint="was it written by --json?")
    if not written:
        raise TraceError(f"{name} is empty.", hint="write it anew with dola trace ... --json")
    found = []
    for number, line in written:
        try:
            found.append(LayerTrace.from_json(line))
        except TraceError as error:
            raise TraceError(f"{name}, line {number}: {error.message}", hint=error.hint) from None
    return found


def write_traces(traces: Sequence[LayerTrace], path: Path) -> None:
    """Write what `read_traces` and `dola trace --open` read."""
    path.write_text("".join(f"{trace.to_json()}\n" for trace in traces), encoding="utf-8")
