"""Models by name: a hub id, a folder, a GGUF file, an adapter, or the alias of an embedded model.

The normal path is `from_pretrained`. What is found out before it: whether the name can mean anything (`model_names.py`),
whether dtype and device exist, whether the packages are there. What comes after it: its exceptions, in our words
(`load_errors.py`), and whether the model has the weights of its file (`checked_loading.py`).
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch

from dola.errors import InputError, MissingExtraError
from dola.files.cache_folder import cache_folder
from dola.installed.hints import install_line
from dola.loading.checked import OnWeights, load_tokenizer, load_weights
from dola.loading.embedded import EMBEDDED, Progress, fetch, remove
from dola.loading.names import gguf_settings, resolve
from dola.loading.notes import passed_on

__all__ = ["EMBEDDED", "LoadedModel", "cache_folder", "fetch", "load", "remove"]

DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")
"""What error messages offer. Whatever torch knows by name and computes in is accepted."""

PLACEMENTS = ("auto", "balanced", "balanced_low_0", "sequential")
"""Values of `device_map` that are no device."""


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
    """Load a causal language model and its tokenizer, in eval mode, padding on the left.

    Code that a model brings along is not run, and nobody is asked whether to run it, unless `trust_remote_code=True` is given.
    A model that does not have the weights of its file is refused; weights in the file that it has no place for are reported.

    Args:
        name: A hub id, a folder, a `.gguf` file, or an alias: "smollm2", "gemma3-270m". The folder or hub id of a PEFT adapter
            loads its base model with the adapter on it.
        progress: Called with one line per step of a fetch and per note on the model; by default lines go to standard error.
        on_weights: Called with what was found of the weights, of a base model and its adapter one after the other. The model
            is then not refused for its weights.
        **kwargs: Passed to `AutoModelForCausalLM.from_pretrained` (dtype, device_map, revision, ...). GGUF weights are
            dequantised, to float32 unless `dtype` says otherwise.

    Raises:
        InputError: A dtype that torch does not have, or a device that this machine does not have.
        ModelFileError: A name, folder, file, hub id or revision that holds no model that can be loaded; weights that are
            missing or do not fit; a gated model; a model that needs `trust_remote_code=True`; no network.
        ModelError: No causal language model, or an architecture that transformers does not know.
        DownloadError: An embedded model could not be fetched.
        MissingExtraError: A package that this model or `device_map` needs.

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
            hint="pass on_weights=print, or a function of yours: it gets a report of the weights",
        )
    _check_dtype(kwargs.get("dtype"))
    _check_device(kwargs.get("device_map"))
    source, where = resolve(str(name), progress)
    kwargs["trust_remote_code"] = bool(kwargs.get("trust_remote_code"))  # with None, transformers asks on the terminal
    with passed_on(progress):
        tokenizer = load_tokenizer(source, where, kwargs)
        model = load_weights(
            AutoModelForCausalLM,
            source,
            progress=progress,
            on_weights=on_weights,
            **{**gguf_settings(where), **kwargs},
            **where,
        )
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
            f"There is no device {str(device)!r} on this machine; its devices are {', '.join(there)}.",
            hint=f"use one of them, or {PLACEMENTS[0]!r}; if one is missing, look at what `dola doctor` says of torch",
        )


def devices() -> list[str]:
    """The devices of this machine, by the names that torch gives them."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def _is_device(asked: torch.device, name: str) -> bool:
    return str(asked) == name or (asked.index is None and asked.type == name.partition(":")[0])
