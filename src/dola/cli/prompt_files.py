"""Reads the files of `dola generate --file`: lines of text, JSON in several layouts, and tables."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dola.cli.output import say
from dola.errors import UsageError
from dola.files.json_text import dumps, finite, null_for
from dola.files.records import DELIMITERS, Entry, MalformedError, Records, described, read_records
from dola.files.text_file import read_text, written_lines

FIELD = "prompt"
NAMES = ("prompt", "question", "text", "instruction", "query", "input", "message")
"""Names that a column of prompts may have."""

_BESIDE = (*NAMES, "id", "answer", "answers", "label", "output", "response", "target", "category", "context")
"""Common names of columns in a table of prompts."""

_OTHERS = {
    **dict.fromkeys((".yaml", ".yml"), "YAML"),
    **dict.fromkeys((".html", ".htm"), "HTML"),
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "a workbook"),
    **dict.fromkeys((".parquet", ".arrow", ".feather", ".pkl", ".pickle", ".npy"), "binary data"),
    ".xml": "XML",
    ".toml": "TOML",
}
_EXAMPLE = '{"prompt": "The capital of France is"}'
_HINT = f"an entry looks like {_EXAMPLE}"
_BRACKETS = re.compile(r"[\[\]{}]+,?")
_OBJECT = re.compile(r'\[?\s*\{\s*"[^"]*"\s*:')
_CHAT = re.compile(r"""\s*\[\s*\{\s*(['"])(role|content|from)\1\s*:""")
_ALONE = "write the user's message alone, as text"
_IS_NAME = re.compile(r"\w+([ _.-]\w+){0,2}")


@dataclass(frozen=True)
class Prompt:
    """A prompt.

    Attributes:
        text: The text of the prompt.
        fields: The other fields of its JSON object or table row.
        where: Its file and line or row, for messages; "" for a prompt from the command line.
    """

    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    where: str = field(default="", compare=False)


def prompts_of(path: Path, field: str | None = None) -> list[Prompt]:
    """The prompts of a file.

    The content decides on the format, or the name if the content does not: JSON (an array or JSON lines, of texts or of
    objects), a table (.csv, .tsv), or one prompt on each line. Blank lines are skipped.

    Args:
        path: The file.
        field: The field or column of the prompts. The default is "prompt". For a table it is also its only column, or the
            only one with a name such as "question", which is then reported on stderr.

    Raises:
        UsageError: The file cannot be read in its format, or an entry has no prompt.
    """
    name = f"--file {str(path)!r}"
    suffix = path.suffix.lower()
    if suffix in _OTHERS:
        raise UsageError(
            f"{name} is {_OTHERS[suffix]}, which is not supported. Allowed: lines of text, .csv, .tsv, .json and .jsonl.",
            hint=f"write one prompt on each line of a .txt file, or {_EXAMPLE} on each line of a .jsonl file",
        )
    text = read_text(path, name=name, error=UsageError)
    try:
        records = read_records(text, suffix)
    except MalformedError as error:
        raise UsageError(f"{name}, {error.message}.", hint=error.hint or _HINT) from None
    found = _lines(text, path, name, field) if records is None else _prompts(records, name, field)
    if not found:
        raise UsageError(f"{name} does not contain a prompt.", hint="write one prompt on each line")
    return found


def _prompts(records: Records, name: str, field: str | None) -> list[Prompt]:
    if records.columns is not None and records.entries:
        field = _column(records.columns, name, field)
    found, lost = [], []
    for entry in records.entries:
        where = f"{name}, {entry.where}"
        values, text = _taken_apart(entry, where, field, records.columns)
        _refuse_chat(text, where)
        if not text.strip() or not is_text(text):
            raise UsageError(f"{where} has a prompt that is empty or cannot be encoded: {text[:60]!a}", hint=_HINT)
        values, odd = finite(values)
        lost += [f"{where}, {path}" for path in odd]
        if not is_text(dumps(values, ensure_ascii=False)):  # they go into the output: fail now, not after decoding
            raise UsageError(f"{where} has a field that cannot be encoded: {dumps(values)[:60]}", hint=_HINT)
        found.append(Prompt(text, values, where))
    if lost:
        say(null_for(lost))
    return found


def _refuse_chat(text: str, where: str) -> None:
    """Refuse a list of chat messages that was written as text, as pandas writes a column of them."""
    if _CHAT.match(text):
        raise UsageError(f"{where} is a list of chat messages, written as text: {text[:60]}", hint=_ALONE)


def is_text(text: str) -> bool:
    """Whether a string can be encoded: bytes that are not UTF-8 reach Python as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _taken_apart(entry: Entry, where: str, field: str | None, columns: Sequence[str] | None) -> tuple[dict[str, Any], str]:
    """The other fields of an entry, and its prompt."""
    values, key = entry.value, FIELD if field is None else field
    if isinstance(values, str):
        if field is not None:
            raise UsageError(f"{where} is a text; it has no field {field!r}.", hint="omit --prompt-field")
        return {}, values
    if not isinstance(values, dict):
        raise UsageError(f"{where} is {described(values)}, not an object or a text.", hint=_HINT)
    if columns is not None and len(values) < len(columns):
        raise UsageError(
            f"{where} has {len(values)} cells, but the header has {len(columns)}.",
            hint='put "quotes" around cells that contain a line break or a separator',
        )
    if key not in values:
        raise UsageError(f"{where} has no field {key!r}; {_listed(list(values))}.", hint=_other_field(values))
    if not isinstance(values[key], str):
        raise UsageError(
            f"{where} has a {key!r} that is not a string but {described(values[key])}.",
            hint=_ALONE if isinstance(values[key], list) else _HINT,
        )
    return {name: value for name, value in values.items() if name != key}, values[key]


def _listed(names: Sequence[str], what: str = "fields") -> str:
    shown = ", ".join(map(repr, names[:20])) + (", ..." if len(names) > 20 else "")
    return f"its {what} are {shown}" if names else f"it has no {what}"


def _other_field(values: dict[str, Any]) -> str:
    """The hint for an entry without a prompt of that name."""
    if any(described(value).endswith("chat messages") for value in values.values()):
        return f"write the user's message alone: {_EXAMPLE}"
    texts = [name for name, value in values.items() if isinstance(value, str)]
    named = [name for name in texts if name.lower() in NAMES]
    return f"--prompt-field {shlex.quote((named or texts)[0])}" if texts else _HINT


def _column(columns: Sequence[str], name: str, field: str | None) -> str:
    """The column of a table that holds the prompts."""
    named = [column for column in columns if column]  # pandas writes its index under an empty name
    if field is not None:
        if field not in columns:
            raise UsageError(f"{name} has no column {field!r}; {_listed(named, 'columns')}.", hint=_by_name(named))
        return field
    if FIELD in named:
        return FIELD
    known = [column for column in named if column.lower() in NAMES]
    chosen = [column for column in known if column.lower() == FIELD] or known or (named if len(named) == 1 else [])
    if len(chosen) == 1 and (chosen == known or re.fullmatch(r"[^\W\d]\w*", chosen[0])):
        say(f"{name}: reading the prompts from column {chosen[0]!r}.")
        return chosen[0]
    if len(named) == 1:
        raise UsageError(
            f"{name}: the first line of a table is its header, but {named[0]!r} does not look like one.",
            hint=f"write prompt in a line before it; or, if it is a header: {_by_name(named)}",
        )
    which = "several columns that may hold prompts" if known else f"no column {FIELD!r}"
    raise UsageError(f"{name} has {which}; {_listed(named, 'columns')}.", hint=_by_name(known or named))


def _by_name(columns: Sequence[str]) -> str:
    return f"--prompt-field {shlex.quote(columns[0])}" if columns else "write prompt as the first line"


def _lines(text: str, path: Path, name: str, field: str | None) -> list[Prompt]:
    """One prompt on each line; refused if the lines are something else."""
    if field is not None:
        raise UsageError(
            f"--prompt-field is for JSON and tables, but {name} has a prompt on each line.",
            hint="omit --prompt-field, or give the file its suffix: .csv, .tsv or .jsonl",
        )
    lines = written_lines(text)
    if lines and _is_header(lines[0][1], lines[1][1] if len(lines) > 1 else None):
        raise UsageError(
            f"{name}, line {lines[0][0]} is the header of a table, not a prompt: {lines[0][1].strip()[:60]}",
            hint=f"name the file {path.with_suffix('.csv').name}, or remove the line",
        )
    quoted = len(lines) > 1 and all(isinstance(_as_json(line), str) for _, line in lines)
    for number, line in lines:
        if quoted or _is_json(line.strip()):
            raise UsageError(
                f"{name}, line {number} is JSON, not a prompt: {line.strip()[:60]}",
                hint=f"name the file {path.with_suffix('.jsonl').name} if all lines are; else write one prompt on each line",
            )
        _refuse_chat(line, f"{name}, line {number}")
    return [Prompt(line, where=f"{name}, line {number}") for number, line in lines]


def _is_json(line: str) -> bool:
    """Whether a line of text is clearly JSON, or part of it: an object, a list of texts or objects, or only brackets."""
    value = _as_json(line)
    if value is not None:
        return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(each, (str, dict)) for each in value))
    if _BRACKETS.fullmatch(line):
        return True
    if _OBJECT.match(line) is None:
        return False
    try:
        json.JSONDecoder().raw_decode(line)
    except (ValueError, RecursionError):
        return True  # truncated, or spread over several lines
    return False  # an object, then prose about it


def _as_json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _is_header(line: str, after: str | None) -> bool:
    """Whether a line of text is clearly the header of a table.

    A header is one known name, or Excel's `sep=;`, or several names with a separator that the next line has too; then one of
    them must be known, or the separator must be a tab.
    """
    if re.fullmatch(r'"?sep=."?', line.strip().lower()):
        return True
    for delimiter in DELIMITERS:
        try:
            (cells,) = csv.reader([line.strip().strip("|")], delimiter=delimiter)
        except (csv.Error, ValueError):
            continue
        names = [cell.strip().lower() for cell in cells]
        if len(names) == 1 and names[0] in NAMES and after is not None:
            return True
        if len(names) > 1 and (after is None or delimiter in after) and all(_IS_NAME.fullmatch(name) for name in names if name):
            close = all(cell == cell.strip() for cell in cells)  # prose has a space after a comma
            known = (
                any(name in _BESIDE for name in names) if close else after is not None and any(name in NAMES for name in names)
            )
            if known or (delimiter == "\t" and after is not None):
                return True
    return False
