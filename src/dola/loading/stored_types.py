"""The number types in which a model's weights are stored, from the headers of its safetensors files.

If config.json does not say that weights are quantized, transformers reads integers and 8-bit floats as plain numbers, and its
lists of weights do not show it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

LONGEST_HEADER = 100_000_000
"""Maximum size of a header in bytes, by the safetensors format."""


def packed_weights(folder: Path | None, floating: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The weights stored as integers, and those stored as 8-bit floats, each sorted by name.

    Args:
        folder: Where the safetensors files are; None if that is not known.
        floating: The names of the model's floating-point weights. Names in a file may have one more leading part, or one less.
    """
    known = floating | {name.partition(".")[2] for name in floating}
    found: dict[str, list[str]] = {"integers": [], "floats": []}
    for path in _files(folder) if folder is not None else ():
        for name, dtype in _types(path):
            if name in known or name.partition(".")[2] in known:
                found["floats" if dtype.startswith("F8") else "integers"] += [name] if _is_packed(dtype) else []
    return tuple(sorted(found["integers"])), tuple(sorted(found["floats"]))


def _files(folder: Path) -> list[Path]:
    """The files that `from_pretrained` reads: one, or those that an index lists."""
    if (whole := folder / "model.safetensors").is_file():
        return [whole]
    try:
        listed = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))["weight_map"]
        return [folder / name for name in sorted(set(listed.values()))]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []  # without an index; if it is damaged, loading the model reports that


def _is_packed(dtype: str) -> bool:
    return dtype.startswith(("F8", "I", "U", "BOOL"))


def _types(path: Path) -> Iterator[tuple[str, str]]:
    """The tensors of a file with their types; none if its header cannot be read, which loading it reports."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header: Any = json.loads(file.read(length)) if length <= LONGEST_HEADER else None
    except (OSError, ValueError):
        return
    for name, entry in header.items() if isinstance(header, Mapping) else ():
        if isinstance(entry, Mapping) and isinstance(dtype := entry.get("dtype"), str):
            yield name, dtype
