"""What a model's name means: a hub id, a folder, a GGUF file, or the alias of an embedded model."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from dola.errors import MissingExtraError, ModelFileError
from dola.installed.hints import install_line
from dola.loading.embedded import EMBEDDED, Progress, fetch
from dola.loading.gguf_header import GgufHeader, read_header
from dola.loading.load_errors import kinds_of_names

LEGACY_HUB_IDS = ("distilgpt2", "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl")
"""Hub ids without an owner that many notebooks still use."""


def resolve(name: str, progress: Progress | None) -> tuple[str, dict[str, str]]:
    """Where `from_pretrained` finds a model: its first argument, and `gguf_file=` for GGUF."""
    path = Path(name)
    if name in EMBEDDED:
        _require_gguf(name)
        path = fetch(name, progress=progress)
    elif name.endswith(".gguf"):
        if not path.is_file():
            raise ModelFileError(f"The file {name!r} does not exist.", hint=f"check the path; {kinds_of_names()}")
        with path.open("rb") as file:
            if (magic := file.read(4)) != b"GGUF":
                raise ModelFileError(f"{name!r} is not a GGUF file: it starts with {magic!r}.", hint="check the path")
        _require_gguf(name)
        check_gguf(path)
    else:
        _check_name(name, path)
        return name, {}
    return str(path.parent), {"gguf_file": path.name}


def _check_name(name: str, path: Path) -> None:
    """Refuse a name that is not a folder with a model and cannot be a hub id."""
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ModelFileError(
                f"The folder {name!r} does not hold a model: it has no config.json.", hint=f"check the path; {kinds_of_names()}"
            )
    elif path.is_file():
        raise ModelFileError(
            f"{name!r} is a file, but not a .gguf file.", hint=f"give the folder that holds it; {kinds_of_names()}"
        )
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return  # a hub id
    elif "/" in name or os.sep in name:
        raise ModelFileError(f"The folder {name!r} does not exist.", hint=f"check the path; {kinds_of_names()}")
    elif name not in LEGACY_HUB_IDS:
        raise ModelFileError(
            f"{name!r} is neither a folder nor an embedded model. Embedded models: {', '.join(EMBEDDED)}.",
            hint=f"check the spelling; {kinds_of_names()}",
        )


def gguf_settings(where: dict[str, str]) -> dict[str, Any]:
    """The arguments that dequantize a GGUF file. transformers before 5.23 always does so and has no setting for it."""
    if not where:
        return {}
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"dtype": torch.float32, **({"quantization_config": config(dequantize=True)} if config else {})}


def _require_gguf(name: str) -> None:
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]  # transformers wants both
    if missing:
        raise MissingExtraError(
            f"{name!r} is a GGUF file; reading it requires {' and '.join(missing)}, not installed here.",
            hint=install_line("cli"),
        )


def check_gguf(gguf: Path) -> GgufHeader | None:
    """The header of a GGUF file, or None if it cannot be read.

    Raises:
        ModelFileError: The file is one part of a split model, or not a model.
    """
    if (header := read_header(gguf)) is None:
        return None
    if header.parts > 1:
        number = header.metadata.get("split.no", 0)
        part = f"part {number + 1}" if isinstance(number, int) else "a part"
        raise ModelFileError(
            f"{gguf} is {part} of a model that was split into {header.parts} files; it lacks the weights of the other parts.",
            hint=f"merge the parts (llama.cpp): llama-gguf-split --merge {_first_part(gguf)} whole.gguf",
        )
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelFileError(
            f"{gguf} does not hold a language model; its header gives the type {kind!r}.",
            hint="use the file of the model itself",
        )
    return header


def _first_part(gguf: Path) -> Path:
    """The name of the first part, following llama.cpp's naming."""
    stem, dash, number = gguf.stem.rpartition("-of-")
    return gguf.with_name(f"{stem[:-5]}00001{dash}{number}.gguf") if dash and stem[-5:].isdecimal() else gguf
