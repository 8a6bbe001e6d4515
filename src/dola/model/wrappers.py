"""Finds the causal LM inside the object that a user passes as the model.

Wrappers of torch.compile and PEFT are removed. A model whose `generate` calls that of one of its parts (BLIP-2) is treated
as that part. Other wrappers (FSDP, DeepSpeed's engine, DataParallel, custom modules) are refused, and the error says where in
them the causal LM is: some of them expose its attributes but do not run the hooks that are put on them.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from torch import nn

from dola.errors import ModelError


def unwrap(model: Any) -> Any:
    """The model inside torch.compile and PEFT wrappers."""
    inner: Any = model
    while isinstance(inner, nn.Module):
        kind: Any = type(inner)
        if "_orig_mod" in inner._modules:
            inner = inner.get_submodule("_orig_mod")
        elif hasattr(kind, "get_base_model"):  # on the class: other wrappers expose the attributes of what is inside them
            inner = kind.get_base_model(inner)
        else:
            break
    return inner


def causal_lm(model: Any) -> Any:
    """The model whose forward returns the logits that `model.generate` decodes.

    Raises:
        ModelError: The model is a wrapper that exposes the attributes of a causal LM.
    """
    lm = unwrap(model)
    while (part := _generating_part(lm)) is not None:
        lm = unwrap(part)
    if any(_is_handed_through(lm, name) for name in ("config", "get_output_embeddings")):
        raise ModelError(
            f"{type(lm).__name__} is a wrapper that only exposes the attributes of the model inside; DoLa needs that model.",
            hint=f"use {found}" if (found := inside(lm)) else "pass the causal language model itself, not the wrapper",
        )
    return lm


def around(model: Any, lm: Any) -> nn.Module | None:
    """The model that the user passed, if `lm` is only the part of it that generates; None if it is `lm` itself."""
    outer = unwrap(model)
    holds = isinstance(outer, nn.Module) and outer is not lm and any(module is lm for module in outer.modules())
    return outer if holds else None


def inside(model: Any) -> str | None:
    """Where a causal LM is inside `model`, as an expression for a hint: "model.module, the LlamaForCausalLM inside"."""
    found = min(_causal_lms(model), key=lambda place: place[0].count("."), default=None)
    if found is None:
        return None
    path, lm = found
    names = "".join(f"[{name}]" if name.isdecimal() else f".{name}" for name in path.split("."))
    return f"model{names}, the {type(unwrap(lm)).__name__} inside"


def _causal_lms(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The causal LMs in a wrapper, whether it is a module or another object, with their paths."""
    parts = {name: part for name, part in getattr(model, "__dict__", {}).items() if isinstance(part, nn.Module)}
    if isinstance(model, nn.Module):
        parts.update(model.named_children())
    for name, part in parts.items():
        public = "module" if name.startswith("_") and getattr(model, "module", None) is part else name  # FSDP's property
        for path, module in part.named_modules(prefix=public):
            if _is_causal_lm(module):
                yield path, module


def _is_causal_lm(module: nn.Module) -> bool:
    """Whether a module generates tokens with its own head, as a decoder without an encoder."""
    lm = unwrap(module)
    if not all(hasattr(type(lm), name) for name in ("generate", "get_output_embeddings")):
        return False
    return not getattr(getattr(lm, "config", None), "is_encoder_decoder", False) and _head(lm) is not None


def _head(lm: Any) -> Any:
    with suppress(AttributeError, NotImplementedError):  # classes without a head raise one or the other
        return lm.get_output_embeddings()
    return None


def _generating_part(lm: Any) -> Any:
    """The part whose `generate` is called by `lm.generate` and that shares its head, or None."""
    generate = getattr(type(lm), "generate", None)
    names = getattr(inspect.unwrap(generate), "__code__", None) if callable(generate) else None
    if names is None or "generate" not in names.co_names or not isinstance(lm, nn.Module):
        return None
    parts = [part for name, part in lm.named_children() if name in names.co_names and _is_causal_lm(part)]
    return parts[0] if len(parts) == 1 and _head(unwrap(parts[0])) is _head(lm) else None


def _is_handed_through(model: Any, name: str) -> bool:
    return hasattr(model, name) and not hasattr(type(model), name) and name not in getattr(model, "__dict__", {})
