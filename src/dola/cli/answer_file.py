"""The file of `dola generate --output`: JSON lines, written as answers arrive, so that an interrupted run can be resumed.

A run resumes only if each line of the file answers the same prompt with the same model and settings. A file that this command
did not write is never changed.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dola.cli.output import json_line
from dola.cli.prompts import Prompt
from dola.errors import UsageError
from dola.files.json_lines import JsonLines, append, lock, open_to_append
from dola.files.json_text import dumps, finite, loads
from dola.files.text_file import check_writable


class AnswerFile:
    """An output file, and the prompts that it already answers.

    Attributes:
        done: Indices of the prompts that the file answers.
    """

    def __init__(self, path: Path, schema: str) -> None:
        self.path, self.schema = path, schema
        self.done: set[int] = set()
        try:
            self._file = JsonLines(path, schema)
            check_writable(path)
        except OSError as error:
            raise UsageError(f"--output {str(path)!r}: {error.strerror}.", hint="check the path") from None
        if not self._file.cut_line_begins(json_line(schema, {}).encode()[:-2].partition(b', "dola"')[0]):
            raise self._refusal("it was not written by this command")
        self._records = [self._record(number, line) for number, line in enumerate(self._file.lines, 1)]

    @property
    def seed(self) -> int | None:
        """The seed of the answers so far, if any were sampled."""
        return self._records[0]["settings"].get("seed") if self._records else None

    def take_up(self, prompts: Sequence[Prompt], model: str, settings: Mapping[str, Any]) -> None:
        """Resume where the file ends, and drop a half-written line.

        Raises:
            UsageError: The file answers other prompts, or comes from another model or other settings.
        """
        for record in self._records:
            index = record["index"]
            fields, _ = finite(record["fields"])  # as in prompts; earlier versions wrote NaN
            if index >= len(prompts) or (record["prompt"], fields) != (prompts[index].text, prompts[index].fields):
                raise self._refusal(f"its answer {index} belongs to another prompt: {str(record['prompt'])[:60]!r}")
            if record["model"] != model:
                raise self._refusal(f"it was made with --model {record['model']}, not {model}")
            made = {"backend": "torch", **record["settings"]}  # earlier versions did not write it
            for name, value in settings.items():
                if (there := made.get(name)) != value:
                    raise self._refusal(f"it was made with {name} = {dumps(there)}, not {dumps(value)}")
            self.done.add(index)
        held = open_to_append(self.path)
        weakref.finalize(self, held.close)  # and with it the lock
        if self.path.is_file():  # not /dev/null, which many processes write to
            if not lock(held):
                raise self._refusal("another process is writing to it")
            if self._file.has_changed(held):
                raise self._refusal("another process wrote to it after this one read it")
        self._file.drop_cut_line(held)

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append answers. When this returns, they are in the file."""
        with open_to_append(self.path) as file:
            append(file, (json_line(self.schema, record) for record in records))

    def _record(self, number: int, line: bytes) -> dict[str, Any]:
        record: Any = None
        with suppress(ValueError):
            record = loads(line)
        schema = record.get("schema") if isinstance(record, dict) else None
        if schema == self.schema and _is_answer(record):
            found: dict[str, Any] = record
            return found
        if self._file.is_other_version(schema):
            raise self._refusal(
                f"its line {number} has schema {schema!r}, written by dola {record.get('dola')}; "
                f"this version writes {self.schema!r}"
            )
        raise self._refusal(f"its line {number} was not written by this command")

    def _refusal(self, why: str) -> UsageError:
        return UsageError(
            f"--output {str(self.path)!r} exists, but {why}.", hint="name another file, or remove it; nothing was changed"
        )


def _is_answer(record: dict[str, Any]) -> bool:
    """Whether an object has all fields of an answer, with the right types."""
    settings = record.get("settings")
    return (
        type(record.get("index")) is int
        and record["index"] >= 0
        and isinstance(record.get("prompt"), str)
        and isinstance(record.get("fields"), dict)
        and isinstance(record.get("model"), str)
        and isinstance(settings, dict)
        and (settings.get("seed") is None or type(settings["seed"]) is int)
    )
