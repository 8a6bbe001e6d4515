"""Reads files of records: JSON arrays, JSON lines and tables, recognized by their content more than by their names.

Both prompts (`dola generate --file`) and data sets of tasks are read here. Imports nothing heavy.
"""

from __future__ import annotations

import csv
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from dola.files.json_text import BrokenJSONError, values
from dola.files.text_file import with_plain_ends

JSON_SUFFIXES = (".json", ".jsonl", ".ndjson")
TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
DELIMITERS = ",;\t|"
CUT_OFF = "get the file again; it may be cut off"

_LONGEST_CELL = 2**31 - 1  # the largest limit that csv accepts on every system
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
"""A line with its end. Other separators, such as U+2028, are part of a cell."""
_limit = threading.Lock()


class MalformedError(ValueError):
    """A file whose content is not in the expected form.

    Attributes:
        message: What is wrong, and where, without the file's name and without a full stop.
        hint: How to fix it; None if that depends on the purpose of the file.
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


@dataclass(frozen=True)
class Entry:
    """One record, an object or any other JSON value, and its place for messages."""

    where: str
    value: Any


@dataclass(frozen=True)
class Records:
    """The records of a file, and the columns of a table (None for JSON)."""

    entries: list[Entry]
    columns: tuple[str, ...] | None = None


def read_records(text: str, suffix: str) -> Records | None:
    """The records of a text, or None if neither its content nor the suffix of its file indicates records.

    Args:
        text: The content of the file.
        suffix: The end of its name, in lower case. A table is recognized by its suffix alone.

    Raises:
        MalformedError: The suffix promises JSON or a table, and the text is not one.
    """
    if suffix in JSON_SUFFIXES:
        return Records(read_json(text))
    if (found := plainly_json(text)) is not None:
        return Records(found)
    return read_table(text, "," if suffix == ".csv" else "\t") if suffix in TABLE_SUFFIXES else None


def read_json(text: str) -> list[Entry]:
    """The items of a JSON array, or consecutive JSON values as in JSON lines.

    Raises:
        MalformedError: A part of the text is not JSON.
    """
    try:
        found = list(values(with_plain_ends(text)))
    except BrokenJSONError as error:
        hint = CUT_OFF if error.cut_off else None
        raise MalformedError(f"line {error.line} is not JSON: {error.reason}", hint) from None
    if len(found) == 1 and isinstance(found[0][1], list):
        return [Entry(f"row {number}", item) for number, item in enumerate(found[0][1], 1)]
    return [Entry(f"line {line}", value) for line, value in found]


def plainly_json(text: str) -> list[Entry] | None:
    """The records of a text that is JSON as a whole: one array of texts or objects, or consecutive objects."""
    if not text.lstrip().startswith(("[", "{")):
        return None
    try:
        found = read_json(text)
    except MalformedError:
        return None
    kinds = (str, dict) if text.lstrip().startswith("[") else dict
    return found if found and all(isinstance(entry.value, kinds) for entry in found) else None


def described(value: Any) -> str:
    """The kind of a JSON value, for messages about one that should be text."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {value}"[:40]
    if isinstance(value, list):
        chat = bool(value) and all(isinstance(each, dict) and "role" in each for each in value)
        return "a list of chat messages" if chat else "a list"
    return "an object" if isinstance(value, dict) else "text"


def read_table(text: str, usual: str) -> Records:
    """The rows of a table with a header, whose cells are separated by commas, semicolons, tabs or bars.

    A row that is shorter than the header lacks its last fields. Blank rows are left out.

    Args:
        text: The table. A first line such as `sep=;`, which Excel writes, sets the separator.
        usual: The usual separator of such files.

    Raises:
        MalformedError: Quotes do not match, a row is longer than the header, or two columns have the same name.
    """
    declared, body = _declared(text)
    with _long_cells():
        delimiter = declared or _delimiter(body, usual)
        rows = list(_rows(body, delimiter, 1 if declared else 0))
    if not rows:
        return Records([], ())
    (_, header), *rows = rows
    names = [name.strip() for name in header]
    kept = [i for i, name in enumerate(names) if name or any(i < len(cells) and cells[i].strip() for _, cells in rows)]
    columns = [names[i] for i in kept]
    if twice := [name for name in columns if columns.count(name) > 1]:
        raise MalformedError(f"two columns are called {twice[0]!r}", "give each column its own name")
    entries = []
    for number, (line, cells) in enumerate(rows, 1):
        where = f"row {number} (line {line})"
        if len(cells) > len(names):
            raise MalformedError(
                f"row {number} has more cells than the header: {len(cells)}, not {len(names)} (line {line})",
                f'put "quotes" around cells that contain {delimiter!r}',
            )
        entries.append(Entry(where, {names[i]: cells[i] for i in kept if i < len(cells)}))
    return Records(entries, tuple(columns))


def _declared(text: str) -> tuple[str | None, str]:
    """The separator that a first line `sep=;` names, and the text after it."""
    if not text[:8].lower().startswith(("sep=", '"sep=')):  # or a copy of all text would be made
        return None, text
    first, _, rest = text.partition("\n")
    word = first.strip("\r").strip('"')
    if word.lower().startswith("sep=") and len(word) == 5:
        return word[4], rest
    return None, text


def _delimiter(text: str, usual: str) -> str:
    """The separator with which all rows have as many cells as the header, otherwise one that occurs in the header."""
    candidates = [usual, *(each for each in DELIMITERS if each != usual)]
    widths = {each: _widths(text, each) for each in candidates}
    whole = [each for each in candidates if widths[each][0] > 1 and widths[each][1]]
    parts = [each for each in candidates if widths[each][0] > 1]
    return next(iter(whole or parts), usual)


def _widths(text: str, delimiter: str) -> tuple[int, bool]:
    """The number of cells in the header with this separator, and whether every row has as many."""
    width = 0
    try:
        for _, cells in _rows(text, delimiter, 0):
            width = width or len(cells)
            if width == 1 or len(cells) != width:
                return width, False
    except MalformedError:
        return width, False
    return width, True


def _rows(text: str, delimiter: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """The rows that are not blank, each with the number of the line where it begins."""
    first = re.search(r"[^\r\n]+", text)
    header = [] if first is None else first[0].split(delimiter)
    spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])  # "a, b": not the cell's space
    lines = (found[0] for found in _LINE.finditer(text))  # io.StringIO would take four bytes for each character
    reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=spaced)
    while True:
        line = reader.line_num + skipped + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise _malformed(error, line) from None
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _malformed(error: csv.Error, line: int) -> MalformedError:
    if "end of data" in str(error):
        return MalformedError(f"the row that begins in line {line} has an unclosed quote", f"close it; or {CUT_OFF}")
    return MalformedError(
        f"the row that begins in line {line} is not CSV: {error}",
        'a cell that begins with a quote must end with one, and quotes inside are doubled: "say ""yes"""',
    )


@contextmanager
def _long_cells() -> Iterator[None]:
    """Allow cells of any length inside: csv refuses more than 131,072 characters, a limit of the whole process."""
    with _limit:
        before = csv.field_size_limit(_LONGEST_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(before)
