"""Models by name: a hub id, a folder, a GGUF file, an adapter, or the alias of an embedded model.

`load` calls `from_pretrained`. Before, it checks that the name can be a model's (`names.py`), that dtype and device exist, and
that the needed packages are installed. Afterwards, it turns exceptions into dola's errors (`load_errors.py`) and checks that
the model has the weights of its file (`checked.py`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dola.errors import InputError, MissingExtraError
from dola.files.cache_folder import cache_folder
from dola.installed.hints import install_line
from dola.loading.checked import OnWeights, load_tokenizer, load_weights
from dola.loading.embedded import EMBEDDED, Progress, fetch, remove
from dola.loading.gguf_once import header_parsed_once
from dola.loading.names import gguf_settings, resolve
from dola.loading.notes import passed_on

__all__ = ["EMBEDDED", "LoadedModel", "cache_folder", "fetch", "load", "remove"]

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
"""The dtypes that error messages list. Every name of a torch dtype that can compute is accepted."""

PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that do not name a device."""


class LoadedModel(NamedTuple):
    """What `load` returns: `model, tokenizer = dola.load(...)`."""

    model: Any
    tokenizer: Any


def load(
    name: str | os.PathLike[str] = "smollm2",
    *,
    progress: Progress | None = None,
    on_weights: OnWeights | None = None,
    **kwargs: Any,
) -> LoadedModel:
    """Load a causal language model in eval mode, and its tokenizer, which pads on the left.

    A model's own Python code does not run unless `trust_remote_code=True` is given; `load` never asks on the terminal.
    A model whose weights differ from those of its file is refused. Weights in the file that the model cannot use are reported.

    Args:
        name: A hub id, a folder, a `.gguf` file, or an alias: "smollm2", "gemma3-270m". The folder or hub id of a PEFT adapter
            loads its base model with the adapter applied.
        progress: Called with one line for each step of a download and each note on the model. By default the lines go to
            standard error.
        on_weights: Called with the report on the weights, first for a base model, then for its adapter. If given, `load` does
            not refuse a model because of its weights.
        **kwargs: Passed to `AutoModelForCausalLM.from_pretrained` (dtype, device_map, revision, ...). GGUF weights are
            dequantized, to float32 unless `dtype` says otherwise.

    Raises:
        InputError: A dtype that torch does not have, or a device that this machine does not have.
        ModelFileError: The name, folder, file, hub id or revision does not hold a loadable model; weights are missing or
            do not fit; the model is gated or needs `trust_remote_code=True`; the hub cannot be reached.
        ModelError: Not a causal language model, or an architecture that transformers does not know.
        DownloadError: An embedded model could not be fetched.
        MissingExtraError: A package that this model or `device_map` needs is not installed.

    Examples:
        >>> import dola
        >>> model, tokenizer = dola.load("smollm2")  # or "owner/name", a folder, a .gguf file
        >>> model.config.num_hidden_layers
        30
    """
    from transformers import AutoModelForCausalLM

    if kwargs.get("output_loading_info"):
        raise InputError(
            "output_loading_info is not an argument of dola.load, which returns a model and its tokenizer.",
            hint="pass on_weights=print, or your own function: it receives the report on the weights",
        )
    _check_dtype(kwargs.get("dtype"))
    _check_device(kwargs.get("device_map"))
    source, where = resolve(str(name), progress)
    kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))  # with None, transformers asks on the terminal
    with passed_on(progress), header_parsed_once(Path(source, where["gguf_file"]) if where else None):
        tokenizer = load_tokenizer(source, where, kwargs)
        model = load_weights(
            AutoModelForCausalLM,
            source,
            progress=progress,
            on_weights=on_weights,
            **{**gguf_settings(where), **kwargs},
            **where,
        )
    if where:  # its default is the folder of the file, which is the cache for the embedded models
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
            f"dtype={dtype!r} is not a floating-point type of torch. Available: {', '.join(DTYPES)}.",
            hint="use dtype='float32' to be exact, dtype='bfloat16' to save memory",
        )


def _check_device(device: Any) -> None:
    """Refuse a device that this machine does not have. transformers itself checks a map of modules to devices."""
    if device is None:
        return
    if find_spec("accelerate") is None:
        raise MissingExtraError(
            f"device_map={device!r} needs the package accelerate, which is not installed.",
            hint=install_line("cli"),
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
            f"No device {str(device)!r} on this machine. Available: {', '.join(there)}.",
            hint=f"use one of them, or {PLACEMENTS[0]!r}; if one is missing, run `dola doctor` to see what torch finds",
        )


def devices() -> list[str]:
    """The devices of this machine, by torch's names."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _is_device(asked: torch.device, name: str) -> bool:
    return str(asked) == name or (asked.index is None and asked.type == name.partition(":")[0])
