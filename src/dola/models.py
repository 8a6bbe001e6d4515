"""Models by name: a hub id, a folder, a GGUF file, or the alias of an embedded model.

The normal path is `from_pretrained`. What is found out before it: whether the name can mean anything, whether dtype and device
exist, whether the packages are there. What comes after it: its exceptions, in our words (`load_errors.py`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dola.embedded import EMBEDDED, Progress, cache_folder, fetch, remove
from dola.errors import InputError, MissingExtraError, ModelFileError
from dola.generation_file import checked_generation_config
from dola.load_errors import in_our_words, kinds_of_names

__all__ = ["EMBEDDED", "LoadedModel", "cache_folder", "fetch", "load", "remove"]

LEGACY_HUB_IDS = ("distilgpt2", "gpt2", "gpt2-large", "gpt2-medium", "gpt2-xl")
"""Hub ids without an owner that are still in everybody's notebooks."""

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
"""What error messages offer. Whatever torch knows by name and computes in is accepted."""

PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that are no device."""


class LoadedModel(NamedTuple):
    """What `load` returns: `model, tokenizer = dola.load(...)`."""

    model: Any
    tokenizer: Any


def load(name: str | os.PathLike[str] = "smollm2", *, progress: Progress | None = None, **kwargs: Any) -> LoadedModel:
    """Load a causal language model and its tokenizer, in eval mode, padding on the left.

    Code that a model brings along is not run, and nobody is asked whether to run it, unless `trust_remote_code=True` is given.

    Args:
        name: A hub id, a folder, a `.gguf` file, or an alias: "smollm2", "gemma3-270m".
        progress: Called with one line per step of a fetch; by default lines go to standard error.
        **kwargs: Passed to `AutoModelForCausalLM.from_pretrained` (dtype, device_map, revision, ...). GGUF weights are
            dequantised, to float32 unless `dtype` says otherwise.

    Raises:
        InputError: A dtype that torch does not have, or a device that this machine does not have.
        ModelFileError: A name, folder, file, hub id or revision that holds no model that can be loaded; a gated model; a model
            that needs `trust_remote_code=True`; no network.
        ModelError: No causal language model, or an architecture that transformers does not know.
        DownloadError: An embedded model could not be fetched.
        MissingExtraError: A package that this model or `device_map` needs.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _check_dtype(kwargs.get("dtype"))
    _check_device(kwargs.get("device_map"))
    source, where = _resolve(str(name), progress)
    gguf = Path(source, where["gguf_file"]) if where else None
    kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))  # with None, transformers asks on the terminal
    code = {key: kwargs[key] for key in ("trust_remote_code", "revision", "token", "local_files_only") if key in kwargs}
    with in_our_words("tokenizer", source, gguf):
        tokenizer = AutoTokenizer.from_pretrained(source, padding_side="left", **code, **where)
    kwargs = {**checked_generation_config(source, kwargs), **kwargs}
    with in_our_words("model", source, gguf):
        model = AutoModelForCausalLM.from_pretrained(source, **{**_gguf_settings(where), **kwargs}, **where)
    if where:  # or it would go by the folder of the file: the cache, for the embedded models
        model.config.name_or_path = str(name)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedModel(model.eval(), tokenizer)


def _check_dtype(dtype: Any) -> None:
    """Refuse the name of a dtype that torch does not have or cannot compute in."""
    if not isinstance(dtype, str) or dtype == "auto":
        return
    found = getattr(torch, dtype, None)
    if not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise InputError(
            f"dtype={dtype!r} is no floating-point type of torch; there are {', '.join(DTYPES)}.",
            hint="use dtype='float32' to be exact, dtype='bfloat16' to save memory",
        )


def _check_device(device: Any) -> None:
    """Refuse a device that this machine does not have. A map of modules to devices is transformers' affair."""
    if device is None:
        return
    if find_spec("accelerate") is None:
        raise MissingExtraError(
            f"device_map={device!r} needs the package accelerate, which is not installed.",
            hint="pip install 'dola-decoding[cli]'",
        )
    if not isinstance(device, (str, torch.device)) or device in PLACEMENTS:
        return
    there = devices()
    try:
        asked = torch.device(device)
    except RuntimeError:
        asked = None
    if asked is None or (asked.type in ("cuda", "mps") and not any(_is_device(asked, name) for name in there)):
        raise InputError(
            f"There is no device {str(device)!r} on this machine; its devices are {', '.join(there)}.",
            hint=f"use one of them, or {PLACEMENTS[0]!r}; if one is missing, look at what `dola doctor` says of torch",
        )


def devices() -> list[str]:
    """The devices of this machine, by the names that torch gives them."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _is_device(asked: torch.device, name: str) -> bool:
    return str(asked) == name or (asked.index is None and asked.type == name.partition(":")[0])


def _resolve(name: str, progress: Progress | None) -> tuple[str, dict[str, str]]:
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
    else:
        _check_name(name, path)
        return name, {}
    return str(path.parent), {"gguf_file": path.name}


def _check_name(name: str, path: Path) -> None:
    """Refuse a name that is neither a folder with a model nor can be a hub id."""
    if path.is_dir():
        if not (path / "config.json").is_file():
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


def _gguf_settings(where: dict[str, str]) -> dict[str, Any]:
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
            hint="pip install 'dola-decoding[cli]'",
        )
