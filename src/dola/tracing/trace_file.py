"""Files of traces: one on each line, as `dola trace --json` prints them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dola.errors import TraceError
from dola.files.json_text import BrokenJSONError, values
from dola.files.text_file import read_text, with_plain_ends
from dola.files.whole_file import write_whole
from dola.tracing.data import LayerTrace, broken_json


def read_traces(path: Path, name: str) -> list[LayerTrace]:
    """The traces of a file, which messages call `name`: one on each line, or spread over several as jq prints JSON.

    Raises:
        TraceError: The file cannot be read, is empty, or has a line that is not a complete trace of this version.
    """
    text = with_plain_ends(read_text(path, name=name, error=TraceError))
    found = []
    try:
        for line, value in values(text):
            found.append(_trace(value, f"{name}, line {line}"))
    except BrokenJSONError as error:
        problem = broken_json(error.reason, cut_off=error.cut_off)
        raise TraceError(f"{name}, line {error.line}: {problem.message}", hint=problem.hint) from None
    if not found:
        raise TraceError(f"{name} is empty.", hint="write it again with dola trace ... --json")
    return found


def _trace(value: Any, where: str) -> LayerTrace:
    try:
        return LayerTrace.from_value(value)
    except TraceError as error:
        raise TraceError(f"{where}: {error.message}", hint=error.hint) from None


def write_traces(traces: Sequence[LayerTrace], path: Path) -> None:
    """Write a file for `read_traces` and `dola trace --open`."""
    write_whole(path, "".join(f"{trace.to_json()}\n" for trace in traces))
