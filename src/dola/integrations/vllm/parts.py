"""Finds the parts of a model of vLLM, whose classes mostly, but not always, use the same names."""

from __future__ import annotations

from typing import Any

from dola.errors import ModelError

DECODERS = ("model", "transformer")
NORMS = ("norm", "norm_f", "ln_f", "final_layernorm")


def decoder_of(model: Any) -> Any:
    """The part before the head: embeddings, blocks and the final norm."""
    language = model.get_language_model() if hasattr(model, "get_language_model") else model
    return next((getattr(language, name) for name in DECODERS if hasattr(language, name)), language)


def norm_name(decoder: Any) -> str:
    """The name of a decoder's final norm.

    Raises:
        ModelError: It has none under a known name.
    """
    name = next((name for name in NORMS if getattr(decoder, name, None) is not None), None)
    if name is None:
        raise ModelError(
            f"{type(decoder).__name__} has no final norm under the names {', '.join(NORMS)}.",
            hint="please report the model: its layers cannot be read out",
        )
    return name


def head_of(model: Any) -> Any:
    """The head, without adapters; for a class without its own, the shared input embedding."""
    embedding = model.lm_head if hasattr(model, "lm_head") else decoder_of(model).embed_tokens
    return getattr(embedding, "base_layer", embedding)
