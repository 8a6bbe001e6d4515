"""What an interrupted fit keeps, so that the next one continues: the model's samples, and the sums over the text so far.

The file is replaced as a whole from time to time, and removed once the lens is there. One that belongs to a different fit is
refused, and never changed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from dola.errors import InputError, LensError
from dola.files.json_lines import lock
from dola.lens.file import read, write
from dola.lens.sums import Sums

SCHEMA = "dola.lens-partial/1"
SECONDS = 30.0
"""Time between two saves, at least."""
TIMES = 20.0
"""Time between two saves, at least, relative to the time that saving takes: wide models have gigabytes of sums."""


class Partial:
    """The state of a fit, and the file that keeps it, if there is one.

    Attributes:
        batches: The batches of samples that the model has written, where it writes the text itself.
        done: The windows that are in the sums.
        sums: The sums of each layer.
    """

    def __init__(self, path: Path | None = None, run: Mapping[str, str] | None = None) -> None:
        self._path, self._run = path, dict(run or {})
        self._held: BinaryIO | None = None
        self._torn = False
        self._saved, self._cost = time.monotonic(), 0.0
        self.batches: list[list[list[int]]] = []
        self.done = 0
        self.sums: dict[int, Sums] = {}

    @classmethod
    @contextmanager
    def open(cls, path: str | os.PathLike[str] | None, run: Callable[[], Mapping[str, str]]) -> Iterator[Partial]:
        """What the file at `path` holds of this fit. It is kept after an exception, and removed otherwise.

        Args:
            path: The file; None keeps nothing.
            run: Returns what must be the same for a fit to continue, by name. Not called without a file.

        Raises:
            InputError: The file belongs to a different fit, another process is writing it, or it is not of this format.
            LensError: It cannot be written.
        """
        if path is None:
            yield cls()
            return
        state = cls(Path(path), run())
        try:
            state._begin()
            yield state
            Path(path).unlink(missing_ok=True)
        except KeyboardInterrupt:
            state.save()
            raise
        finally:
            if state._held is not None:
                state._held.close()

    @contextmanager
    def adding(self) -> Iterator[None]:
        """Add a window to all sums inside. What an interruption leaves in between is never saved."""
        self._torn = True
        yield
        self.done += 1
        self._torn = False

    def save(self) -> None:
        """Replace the file by the present state.

        Raises:
            LensError: It cannot be written.
        """
        if self._path is None or self._torn:
            return
        start = time.monotonic()
        tensors: dict[str, Tensor] = {
            "tokens": torch.tensor([t for b in self.batches for row in b for t in row], dtype=torch.int32)
        }
        for layer, sums in self.sums.items():
            tensors |= {f"{layer}.inputs": sums.inputs.cpu(), f"{layer}.products": sums.products.cpu()}
        lengths = [[len(row) for row in batch] for batch in self.batches]
        write(self._path, tensors, {"run": self._run, "done": self.done, "lengths": lengths}, schema=SCHEMA)
        self._hold()
        self._saved = time.monotonic()
        self._cost = self._saved - start

    def save_now_and_then(self) -> None:
        """Save, unless that was done a short time ago."""
        if time.monotonic() - self._saved > max(SECONDS, TIMES * self._cost):
            self.save()

    def _begin(self) -> None:
        assert self._path is not None
        if not self._path.exists():
            self.save()  # what cannot be written is refused before hours of work
            return
        self._hold()
        try:
            tensors, facts, _ = read(self._path, schema=SCHEMA)
        except LensError:
            raise self._refusal("is damaged, or was not written by dola") from None
        there = facts.get("run")
        for name, value in self._run.items():
            if not isinstance(there, dict) or there.get(name) != value:
                found = there.get(name) if isinstance(there, dict) else None
                raise self._refusal(f"belongs to a different fit ({name}: {found} in the file, {value} now)")
        self._take(tensors, facts)

    def _take(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Continue from the content of a file."""
        tokens = iter(tensors["tokens"].tolist())
        self.batches = [[list(islice(tokens, length)) for length in batch] for batch in facts["lengths"]]
        self.done = facts["done"]
        layers = [name.partition(".")[0] for name in tensors if name.endswith(".inputs")]
        self.sums = {int(layer): Sums(tensors[f"{layer}.inputs"], tensors[f"{layer}.products"]) for layer in layers}

    def _hold(self) -> None:
        """Lock the file, so that a second run of the same command does not do everything twice."""
        if os.name == "nt":  # a file that is open there cannot be replaced
            return
        assert self._path is not None
        held = self._path.open("rb")
        if not lock(held):
            held.close()
            raise self._refusal("is being written by another process")
        if self._held is not None:
            self._held.close()
        self._held = held

    def _refusal(self, why: str) -> InputError:
        return InputError(
            f"The partial fit {str(self._path)!r} {why}.", hint=f"name another output, or begin again: rm {self._path}"
        )
