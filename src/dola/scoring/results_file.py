"""A file of results that an interrupted run goes on from: a head line that says what is run, then one JSON line for each item.

A line that was half written when the run was killed is dropped. A file of another run is refused, and never changed.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import torch
import transformers

from dola._version import __version__
from dola.errors import InputError
from dola.files.json_text import dumps, finite, loads

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("dola")

SCHEMA = "dola.results/1"

IsResult = Callable[[int, Any], bool]

SAMPLED = 64
"""Elements of each weight that tell one model from another."""


def what_model(model: Any) -> dict[str, str]:
    """What of a model, and of the code that runs it, must be the same for results to be gone on with."""
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        if weight.device.type != "meta":  # offloaded to disk
            flat = weight.detach().flatten()
            digest.update(flat[:: max(1, len(flat) // SAMPLED)].float().cpu().numpy().tobytes())
    return {
        "model": f"{model.config.name_or_path} ({type(model).__name__}, {model.dtype})",
        "weights": digest.hexdigest(),
        "versions": f"dola {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


class ResultsFile:
    """Results by item.

    Attributes:
        items: What is known, item -> any JSON value.
    """

    def __init__(self, items: dict[int, Any], file: TextIO | None) -> None:
        self.items, self._file = items, file

    @classmethod
    @contextmanager
    def open(
        cls, path: str | Path | None, run: Callable[[], Mapping[str, str]], is_result: IsResult = lambda item, found: True
    ) -> Iterator[ResultsFile]:
        """The results at `path`, as far as they are there; kept in memory alone where it is None.

        Args:
            path: The file. It is made where it does not exist.
            run: Makes what is run, in words, by name; a file in which any of them differs is of another run. Not called without
                a file: a digest of a model's weights takes time.
            is_result: Whether an item, by its number, can have what a file says was found for it.

        Raises:
            InputError: A file of another run or another version, one that another process is writing, one that is damaged or
                not of this format, or a path that cannot be written.
        """
        if path is None:
            yield cls({}, None)
            return
        facts = dict(run())
        try:
            file = Path(path).open("a", encoding="utf-8", newline="\n")  # noqa: SIM115 - closed below
        except OSError as error:
            raise InputError(f"results {str(path)!r}: {error.strerror or error}.", hint="check the path") from error
        with file:
            _lock(file, Path(path))
            items, length = _read(Path(path), facts, is_result)
            file.truncate(length)
            if not length:
                _write(file, {"schema": SCHEMA, "run": facts})
            yield cls(items, file)

    def add(self, item: int, found: Any) -> None:
        """Keep what was found for an item. When this returns the file holds it, unless it has NaN or infinity.

        JSON has no such numbers. An item with one is not written, so that a later run finds it again rather than null.
        """
        self.items[item] = found
        if self._file is not None and not finite(found)[1]:
            _write(self._file, {"item": item, "found": found})


def _read(path: Path, run: Mapping[str, str], is_result: IsResult) -> tuple[dict[int, Any], int]:
    """Items, and the length in bytes up to which the file is whole."""
    content = path.read_bytes()
    lines = content.split(b"\n")
    whole = len(content) - len(lines.pop())
    if not lines:
        start = dumps({"schema": SCHEMA})[:-1].encode()
        if content and not (content.startswith(start) or start.startswith(content)):
            raise _refusal(path, "was not written by dola")
        return {}, 0
    there, items = _taken_apart(path, lines)
    for name, value in run.items():
        if there.get(name) != value:
            raise _refusal(path, f"is of another run: its {name} is {there.get(name)}, and here it is {value}")
    for item, found in items.items():
        if not is_result(item, found):
            raise _refusal(path, f"is damaged: what it holds for item {item} is not a result of this run")
    return items, whole


def _taken_apart(path: Path, lines: list[bytes]) -> tuple[dict[str, Any], dict[int, Any]]:
    """What was run, and the items, of the lines of a file."""
    try:
        head, *records = map(loads, lines)
        schema = head["schema"]
        another = isinstance(schema, str) and schema != SCHEMA and schema.startswith(SCHEMA.partition("/")[0] + "/")
        there = {} if another else dict(head["run"])
        items = {} if another else {record["item"]: record["found"] for record in records}
    except (ValueError, KeyError, TypeError):
        raise _refusal(path, "was not written by dola") from None
    if another:
        raise _refusal(path, f"was written by another version of dola: its schema is {schema!r}, and here it is {SCHEMA!r}")
    if schema != SCHEMA or not all(type(item) is int for item in items):
        raise _refusal(path, "was not written by dola")
    return there, items


def _lock(file: TextIO, path: Path) -> None:
    """Have the file for ourselves until it is closed, so that two runs of one command do not score everything twice."""
    if fcntl is None:
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _refusal(path, "is being written by another process") from None
    except OSError as error:  # some network file systems have no locks
        logger.info("%s cannot be locked: %s", path, error)


def _write(file: TextIO, record: Mapping[str, Any]) -> None:
    file.write(dumps(record) + "\n")
    file.flush()


def _refusal(path: Path, why: str) -> InputError:
    return InputError(f"results {str(path)!r} {why}.", hint="name another file, or remove it; nothing was changed")
