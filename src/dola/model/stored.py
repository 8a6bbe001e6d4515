"""How a model's weights were stored, where the model itself no longer says so: quantized weights that were dequantized."""

from __future__ import annotations

from typing import Any

_NOTE = "_dola_dequantized"
"""The attribute of the causal LM. Not one of its config, which `save_pretrained` would write."""


def note_dequantized(lm: Any) -> None:
    """Note that the weights were read from quantized ones, and are plain numbers now."""
    setattr(lm, _NOTE, True)


def is_quantized(lm: Any) -> bool:
    """Whether the weights are quantized, or were read from quantized ones."""
    return getattr(lm.config, "quantization_config", None) is not None or getattr(lm, _NOTE, False)
