"""Reads the header of a GGUF file: its metadata, and the names and types of its tensors.

The gguf package reads headers too, but takes seconds for a vocabulary of 100,000 tokens. This reader skips the lists.
"""

from __future__ import annotations

import errno
import struct
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Metadata types of a fixed length, as format characters of `struct`. Type 8 is a string, type 9 a list."""
TEXT, LIST = 8, 9

PLAIN = frozenset({0, 1, 28, 30})
"""Types of tensors that are not quantized: float32, float16, float64, bfloat16."""


class GgufHeader(NamedTuple):
    """The metadata of a GGUF file without its lists, and the names and types of its tensors."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...]
    types: frozenset[int]

    @property
    def is_quantized(self) -> bool:
        """Whether any of the weights are quantized."""
        return not self.types <= PLAIN

    @property
    def parts(self) -> int:
        """How many files the model was split into; 1 for a whole model."""
        count = self.metadata.get("split.count", 1)
        return count if isinstance(count, int) else 1

    @property
    def blocks(self) -> int:
        """How many blocks the tensors belong to, by their names."""
        numbers = [name.split(".")[1] for name in self.tensors if name.startswith("blk.")]
        drafting = {name.split(".")[1] for name in self.tensors if ".nextn." in name}  # layers that predict further tokens
        return 1 + max((int(number) for number in numbers if number.isdecimal() and number not in drafting), default=-1)


def read_header(path: Path) -> GgufHeader | None:
    """The header of a GGUF file, or None if it cannot be read; then transformers reports the problem."""
    try:
        with path.open("rb") as file:
            magic, version = _read(file, "4sI")
            if magic != b"GGUF" or version not in (2, 3):  # older versions, and files of another byte order
                return None
            tensors, values = _read(file, "QQ")
            metadata = dict(_metadata(file) for _ in range(values))
            names, types = _tensors(file, tensors)
            return GgufHeader({key: value for key, value in metadata.items() if value is not None}, names, types)
    except (struct.error, UnicodeDecodeError, KeyError, OverflowError, MemoryError, RecursionError, ValueError):
        return None
    except OSError as error:
        if error.errno != errno.EINVAL:  # a length that leads to no place in any file
            raise
        return None


def _read(file: BinaryIO, kind: str) -> tuple[Any, ...]:
    return struct.unpack(f"<{kind}", file.read(struct.calcsize(f"<{kind}")))


def _text(file: BinaryIO) -> str:
    return file.read(_read(file, "Q")[0]).decode("utf-8")


def _metadata(file: BinaryIO) -> tuple[str, Any]:
    """One key and its value; None for a list."""
    key = _text(file)
    (kind,) = _read(file, "I")
    return key, _value(file, kind)


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == TEXT:
        return file.read(_read(file, "Q")[0]).decode("utf-8", errors="replace")
    if kind != LIST:
        return _read(file, SCALARS[kind])[0]
    inner, count = _read(file, "IQ")
    if inner in SCALARS:
        file.seek(struct.calcsize(f"<{SCALARS[inner]}") * count, 1)
        return None
    for _ in range(count):
        if inner == TEXT:
            file.seek(_read(file, "Q")[0], 1)
        else:
            _value(file, inner)
    return None


def _tensors(file: BinaryIO, count: int) -> tuple[tuple[str, ...], frozenset[int]]:
    """The names of the tensors, and the types that occur; their shapes and places are skipped."""
    names, types = [], set()
    for _ in range(count):
        names.append(_text(file))
        (dimensions,) = _read(file, "I")
        file.seek(8 * dimensions, 1)
        types.add(_read(file, "I")[0])
        file.seek(8, 1)
    return tuple(names), frozenset(types)
