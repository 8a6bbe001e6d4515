"""Lens files: safetensors, whose metadata holds one JSON object under "dola.lens". Written as a whole or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dola.errors import LensError
from dola.files.json_text import dumps, loads
from dola.files.whole_file import replacing

SCHEMA = "dola.lens/1"
BLOCK = 2**22
"""Bytes that are hashed at a time: the maps of wide models are gigabytes."""


def write(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any], *, schema: str = SCHEMA) -> str:
    """Write tensors and facts to a new file that then takes the place of an older one.

    Returns:
        The SHA-256 of its content.

    Raises:
        LensError: The file cannot be written.
    """
    metadata = {"dola": dumps({"schema": schema, **facts})}
    try:
        with replacing(path) as partial:
            save_file({name: value.contiguous() for name, value in tensors.items()}, partial, metadata)
            digest = _digest(partial)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise LensError(
            f"The lens cannot be written to {str(path)!r}: {why}.", hint="name a file in a folder that exists"
        ) from None
    return digest


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def read(path: Path, *, schema: str = SCHEMA) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """The tensors of a file, its facts, and the SHA-256 of its content.

    Raises:
        LensError: No such file, a file that is cut off, or one that is not a lens.
    """
    try:
        digest = _digest(path)
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) and error.strerror else "it is cut off, or not safetensors"
        raise LensError(
            f"The lens {str(path)!r} cannot be read: {why}.", hint="get it again, or fit it: dola lens fit"
        ) from None
    try:
        facts = loads(metadata.get("dola", "null"))
    except ValueError:  # BrokenJSONError is one
        facts = None
    if not isinstance(facts, dict) or facts.pop("schema", None) != schema:
        raise LensError(
            f"{str(path)!r} is not a lens: its metadata does not say {schema!r}.",
            hint="fit one (dola lens fit MODEL --output FILE), or import a tuned lens (dola lens import FOLDER)",
        )
    return tensors, facts, digest
