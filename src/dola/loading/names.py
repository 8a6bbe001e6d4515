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
"""Hub ids without an owner that are still in everybody's notebooks."""


def resolve(name: str, progress: Progress | None) -> tuple[str, dict[str, str]]:
    """Where `from_pretrained` finds a model: its first argument, and `gguf_file=` for GGUF."""
    path = Path(name)
    if name in EMBEDDED:
        _require_gguf(name)
        path = fetch(name, progress=progress)
    elif name.endswith(".gguf"):
        if not path.is_file():
            raise ModelFileError(f"There is no file {name!r}.", hint=f"check the path; {kinds_of_names()}")
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
    """Refuse a name that is neither a folder with a model nor can be a hub id."""
    if path.is_dir():
        if not any((path / file).is_file() for file in ("config.json", "adapter_config.json")):
            raise ModelFileError(
                f"The folder {name!r} holds no config.json, so no model.", hint=f"check the path; {kinds_of_names()}"
            )
    elif path.is_file():
        raise ModelFileError(
            f"{name!r} is a file, but no .gguf file.", hint=f"give the folder that it lies in; {kinds_of_names()}"
        )
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return  # a hub id
    elif "/" in name or os.sep in name:
        raise ModelFileError(f"There is no folder {name!r}.", hint=f"check the path; {kinds_of_names()}")
    elif name not in LEGACY_HUB_IDS:
        raise ModelFileError(
            f"{name!r} is neither a folder nor an embedded model; those are {', '.join(EMBEDDED)}.",
            hint=f"check the spelling; {kinds_of_names()}",
        )


def gguf_settings(where: dict[str, str]) -> dict[str, Any]:
    """A GGUF file is loaded dequantised. transformers before 5.23 knows no other way and has no setting for it."""
    if not where:
        return {}
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {"dtype": torch.float32, **({"quantization_config": config(dequantize=True)} if config else {})}


def _require_gguf(name: str) -> None:
    missing = [package for package in ("gguf", "accelerate") if find_spec(package) is None]  # transformers wants both
    if missing:
        raise MissingExtraError(
            f"{name!r} is a GGUF file, and to read it {' and '.join(missing)} must be installed.",
            hint=install_line("cli"),
        )


def check_gguf(gguf: Path) -> GgufHeader | None:
    """Refuse a part of a GGUF model, and GGUF files that are not models. Returns the header, where it can be read.

    Raises:
        ModelFileError: Such a file.
    """
    if (header := read_header(gguf)) is None:
        return None
    if header.parts > 1:
        number = header.metadata.get("split.no", 0)
        raise ModelFileError(
            f"{gguf} is part {number + 1} of a model that was split into {header.parts} files, and lacks the weights of the "
            "other parts.",
            hint=f"merge the parts (llama.cpp): llama-gguf-split --merge {_first_part(gguf)} whole.gguf",
        )
    kind = header.metadata.get("general.type", "model")
    if kind != "model":
        raise ModelFileError(
            f"{gguf} does not hold a language model; it says that it is of type {kind!r}.",
            hint="use the file of the model itself",
        )
    return header


def _first_part(gguf: Path) -> Path:
    """The name of the first part, by the names that llama.cpp gives them."""
    stem, dash, number = gguf.stem.rpartition("-of-")
    return gguf.with_name(f"{stem[:-5]}00001{dash}{number}.gguf") if dash and stem[-5:].isdecimal() else gguf
