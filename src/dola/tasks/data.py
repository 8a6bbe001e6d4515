"""Reads data sets from files (JSON, JSON lines, tables) or from the Hugging Face hub, as rows with their place in the source.

The package does not contain data. Every report shows the SHA-256 of the data. A file that differs from the published one is
read too, and reported: its numbers are not comparable with published ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from dola.errors import DataError, MissingExtraError
from dola.files.records import CUT_OFF, JSON_SUFFIXES, TABLE_SUFFIXES, Entry, MalformedError, described, read_records
from dola.files.text_file import decoded
from dola.installed.hints import install_line
from dola.tasks.lists import all_texts, exported_list

HUB = "hf:"
SUFFIXES = (*TABLE_SUFFIXES, *JSON_SUFFIXES)


@dataclass(frozen=True)
class HubDataset:
    """A data set of the Hugging Face hub: its id, config and split."""

    id: str
    config: str | None = None
    split: str = "test"

    @classmethod
    def named(cls, text: str) -> HubDataset:
        """The data set of "ID", "ID:SPLIT" or "ID:CONFIG:SPLIT"."""
        name, *more = text.split(":")
        if not name or len(more) > 2 or not all(more):
            raise DataError(f"{text!r} does not name a hub data set.", hint="hf:owner/name, hf:owner/name:CONFIG:SPLIT")
        return cls(name, more[0] if len(more) == 2 else None, more[-1] if more else "test")

    def __str__(self) -> str:
        return ":".join(part for part in (self.id, self.config, self.split) if part)


Source: TypeAlias = str | os.PathLike[str] | HubDataset
"""A path, a hub id ("owner/name" or "hf:owner/name", the split "test"), or one with config and split ("hf:ID:CONFIG:SPLIT")."""


@dataclass(frozen=True)
class Origin:
    """One file or hub data set that rows came from.

    Attributes:
        name: The path as given, or the hub id with config and split.
        sha256: SHA-256 of the file's bytes; for a hub data set, of its rows as sorted JSON, one per line.
        known: Whether this is byte for byte a file that the task's published numbers were made with.
    """

    name: str
    sha256: str
    known: bool


@dataclass(frozen=True)
class Row:
    """One row of a data set.

    Attributes:
        fields: Its values by name.
        number: Its number among all rows that were opened together, counted from 1.
        where: The file and the row's number in it, counted from 1 without the header, for messages.
    """

    fields: Mapping[str, Any]
    number: int
    where: str

    def value(self, *names: str) -> Any:
        """The first of these fields that the row has. Field names differ between the hub and files.

        Raises:
            DataError: None of them exists, or it is empty.
        """
        name = self._name(names)
        found = self.fields.get(name)
        if found is None or (isinstance(found, (str, list)) and not "".join(map(str, found)).strip()):
            state = "is empty" if name in self.fields else "is missing; the row has " + ", ".join(map(repr, self.fields))
            raise DataError(f"{self.where}: the field {name!r} {state}.", hint="complete the row, or remove it")
        return found

    def text(self, *names: str) -> str:
        """Like `value`, for text. It is not stripped: white space around it is part of some prompts.

        Raises:
            DataError: See `value`; or it is not text.
        """
        found = self.value(*names)
        if not isinstance(found, str):
            raise DataError(
                f"{self.where}: the field {self._name(names)!r} is {described(found)}, not text.",
                hint="write it as a string, in quotes",
            )
        return found

    def texts(self, *names: str, separator: str | None = None) -> list[str]:
        """Like `value`, for a list of texts from JSON, from the hub, or from one cell of a table.

        Args:
            *names: See `value`.
            separator: Separates the texts of a cell that is not a list in the notation of Python, numpy or JSON.

        Raises:
            DataError: See `value`; or it is not a list, or an item of it is not text.
        """
        found, where = self.value(*names), f"{self.where}: the field {self._name(names)!r}"
        try:
            listed = exported_list(found) if isinstance(found, str) else found
            if isinstance(listed, list):
                return all_texts(listed)
        except ValueError as error:
            whole = not isinstance(found, str) or found.rstrip().endswith(("]", ")"))
            raise DataError(
                f"{where}: {error}. It is {str(found)[:80]}", hint='write it as JSON: ["one", "two"]' if whole else CUT_OFF
            ) from None
        if isinstance(found, str) and separator is not None:
            return found.split(separator)
        raise DataError(f"{where} is {described(found)}, not a list of texts.", hint='write it as JSON: ["one", "two"]')

    def _name(self, names: Sequence[str]) -> str:
        """The first of these names that is a field of the row."""
        return next((name for name in names if name in self.fields), names[0])


@dataclass(frozen=True)
class Data:
    """Rows, and the sources that they were read from."""

    rows: tuple[Row, ...]
    origins: tuple[Origin, ...]


def open_data(source: Source | Sequence[Source], *, published: Collection[str] = (), homepage: str = "") -> Data:
    """The rows of a file or hub data set, or of several, one after the other.

    Args:
        source: One or more paths (.csv, .tsv, .json, .jsonl; "-" is standard input) or hub data sets.
        published: SHA-256 of the files that published numbers were made with; sets `Origin.known`.
        homepage: Where the files can be downloaded, for the error of a missing one.

    Raises:
        DataError: The file does not exist, does not hold what its name says, or has no rows.
        MissingExtraError: A hub data set without the package `datasets`.
    """
    sources = [source] if isinstance(source, (str, os.PathLike, HubDataset)) else list(source)
    rows: list[Row] = []
    origins: list[Origin] = []
    for one in sources:
        name, digest, found = _from_hub(hub) if (hub := _as_hub(one)) else _from_file(str(one), homepage)
        start = len(rows) + 1
        rows += [Row(fields, start + i, f"{name}, row {i + 1}") for i, fields in enumerate(found)]
        if len(rows) < start:
            raise DataError(
                f"{name} does not contain any rows.",
                hint="a table begins with a line that names its columns, and each further line is a row",
            )
        origins.append(Origin(name, digest, digest in published))
    return Data(tuple(rows), tuple(origins))


def _as_hub(source: Source) -> HubDataset | None:
    """The hub data set that a source means, or None if it means a file: "owner/name" is a hub id if no such file exists."""
    if isinstance(source, HubDataset):
        return source
    name = str(source)
    if name.startswith(HUB):
        return HubDataset.named(name.removeprefix(HUB))
    is_file = name == "-" or Path(name).exists() or name.endswith(SUFFIXES) or name.startswith((".", "/", "~"))
    return HubDataset(name) if not is_file and isinstance(source, str) and name.count("/") == 1 else None


def _from_file(name: str, homepage: str) -> tuple[str, str, list[dict[str, Any]]]:
    """Name, SHA-256 and rows of a file; "-" is standard input, which holds JSON or a table with commas."""
    if name == "-":
        content = sys.stdin.buffer.read()
        return "standard input", hashlib.sha256(content).hexdigest(), _parse(Path("standard input.csv"), content)
    path = Path(name)
    try:
        content = path.read_bytes()
    except OSError as error:
        kinds = f"a file in {', '.join(SUFFIXES)} or a hub id such as owner/name is needed"
        raise DataError(
            f"The data file {str(path)!r} cannot be read: {error.strerror}.",
            hint=f"check the path; {f'the file can be downloaded from {homepage}' if homepage else kinds}",
        ) from None
    return str(path), hashlib.sha256(content).hexdigest(), _parse(path, content)


def _parse(path: Path, content: bytes) -> list[dict[str, Any]]:
    text = decoded(content, path, name=str(path), error=DataError)
    if (suffix := path.suffix.lower()) not in SUFFIXES:
        raise DataError(
            f"{str(path)!r} does not have the name of a data file.", hint=f"use a file that ends in {', '.join(SUFFIXES)}"
        )
    try:
        records = read_records(text, suffix)
        assert records is not None
        if suffix == ".json" and len(records.entries) == 1 and text.lstrip().startswith("{"):  # pandas writes columns like this
            raise MalformedError("it holds one object, not a list of objects", "with pandas: to_json(path, orient='records')")
        return _objects(records.entries)
    except MalformedError as error:
        hint = error.hint or "correct it, or get the file again"
        raise DataError(f"{path} cannot be read as {suffix}: {error.message}.", hint=hint) from None


def _objects(entries: list[Entry]) -> list[dict[str, Any]]:
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry.value, dict):
            raise MalformedError(f"row {number} is {described(entry.value)}, not an object with fields")
    return [entry.value for entry in entries]


def _from_hub(hub: HubDataset) -> tuple[str, str, list[dict[str, Any]]]:
    """Name, SHA-256 and rows of a hub data set."""
    if find_spec("datasets") is None:
        raise MissingExtraError(
            f"{hub.id} is on the Hugging Face hub; reading it requires the package datasets, which is not installed. A file "
            "needs no package.",
            hint=install_line("eval"),
        )
    from datasets import load_dataset

    try:
        rows = [dict(row) for row in load_dataset(hub.id, hub.config, split=hub.split)]
    except Exception as error:  # whatever the hub, the network and the data set's own code raise
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"The hub data set {hub} cannot be read: {line}",
            hint=f"name its config and split as on huggingface.co/datasets: {HUB}{hub.id}:CONFIG:SPLIT; or give a file",
        ) from error
    return str(hub), _digest(rows), rows


def _digest(rows: Iterable[dict[str, Any]]) -> str:
    lines = (json.dumps(row, sort_keys=True, ensure_ascii=False, default=str) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
