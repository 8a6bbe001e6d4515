"""A file of results from which an interrupted run resumes: a head line with the run's properties, then one JSON line per item.

A file that belongs to a different run is refused, and never changed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from dola.errors import InputError
from dola.files.json_lines import JsonLines, append, lock, open_to_append
from dola.files.json_text import dumps, finite, loads

SCHEMA = "dola.results/1"
LONGEST = 160
"""Characters of a property that a message repeats."""
_DIGEST = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

IsResult = Callable[[int, Any], bool]


class ResultsFile:
    """Results by item.

    Attributes:
        items: The results so far: item -> any JSON value.
    """

    def __init__(self, items: dict[int, Any], file: TextIO | None) -> None:
        self.items, self._file = items, file

    @classmethod
    @contextmanager
    def open(
        cls, path: str | Path | None, run: Callable[[], Mapping[str, str]], is_result: IsResult = lambda item, found: True
    ) -> Iterator[ResultsFile]:
        """Open the results at `path`; if it is None, results are kept in memory only.

        Args:
            path: The file. It is created if it does not exist.
            run: Returns the run's properties by name; a file in which any of them differs belongs to a different run. Not
                called without a file: a digest of a model's weights takes time.
            is_result: Whether a value from a file can be the result of an item, given by its number.

        Raises:
            InputError: The file belongs to a different run or version, another process is writing it, it is damaged or
                not of this format, or the path cannot be written.
        """
        if path is None:
            yield cls({}, None)
            return
        path, facts = Path(path), dict(run())
        try:
            file = open_to_append(path)
        except OSError as error:
            raise InputError(f"results {str(path)!r}: {error.strerror or error}.", hint="check the path") from error
        with file:
            if not lock(file):  # two runs of one command would do all work twice
                raise _refusal(path, "is being written by another process")
            there = JsonLines(path, SCHEMA)
            items = _items(there, facts, is_result)
            there.drop_cut_line(file)
            if not there.lines:
                append(file, [dumps({"schema": SCHEMA, "run": facts}) + "\n"])
            yield cls(items, file)

    def add(self, item: int, found: Any) -> None:
        """Store the result of an item. When this returns, the file holds it, unless it has NaN or infinity.

        JSON has no such numbers. An item with one is not written, so that a later run computes it again.
        """
        self.items[item] = found
        if self._file is not None and not finite(found)[1]:
            append(self._file, [dumps({"item": item, "found": found}) + "\n"])


def _items(file: JsonLines, run: Mapping[str, str], is_result: IsResult) -> dict[int, Any]:
    """The items of a file, checked to belong to this run."""
    if not file.lines:
        if not file.cut_line_begins(dumps({"schema": SCHEMA})[:-1].encode()):
            raise _refusal(file.path, "was not written by dola")
        return {}
    there, items = _taken_apart(file)
    for name, value in run.items():
        if there.get(name) != value:
            raise _refusal(file.path, f"belongs to a different run ({_apart(name, there.get(name), value)})")
    for item, found in items.items():
        if not is_result(item, found):
            raise _refusal(file.path, f"is damaged: what it holds for item {item} is not a result of this run")
    return items


def _taken_apart(file: JsonLines) -> tuple[dict[str, Any], dict[int, Any]]:
    """The run's properties, and the items."""
    try:
        head, *records = map(loads, file.lines)
        schema = head["schema"]
        another = file.is_other_version(schema)
        there = {} if another else dict(head["run"])
        items = {} if another else {record["item"]: record["found"] for record in records}
    except (ValueError, KeyError, TypeError):
        raise _refusal(file.path, "was not written by dola") from None
    if another:
        why = f"was written by another version of dola: its schema is {schema!r}, and here it is {SCHEMA!r}"
        raise _refusal(file.path, why)
    if schema != SCHEMA or not all(type(item) is int for item in items):
        raise _refusal(file.path, "was not written by dola")
    return there, items


def _apart(name: str, there: Any, now: str) -> str:
    """How a property of the run in the file differs, for people: digests are shortened, and long values left out."""
    shown = [_DIGEST.sub(r"\1...", str(each)) for each in (there, now)]
    if max(map(len, shown)) > LONGEST or shown[0] == shown[1]:
        return f"{name}: not those of the file"
    return f"{name}: {shown[0]} in the file, {shown[1]} now"


def _refusal(path: Path, why: str) -> InputError:
    return InputError(f"results {str(path)!r} {why}.", hint="name another file, or remove it; nothing was changed")
