"""The check of the first forward: what was found as the parts of a model must reproduce the model's own logits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mlx.core as mx
from mlx_lm.models.cache import make_prompt_cache

from dola.errors import ModelError, ReadoutError
from dola.mlx.parts import named

if TYPE_CHECKING:
    from dola.mlx.session import Attachment

TOLERANCE = {mx.float32: 5e-3, mx.bfloat16: 5e-2, mx.float16: 2e-2}
"""Largest relative difference, by the type of the logits, as for transformers."""

TOKENS = 8
"""Tokens of the input that the check runs: with a cache of its own, before the input itself."""


def check_readout(attachment: Attachment, inputs: Any) -> None:
    """Read the last block's output as a candidate is read, and compare it with the model's own logits.

    Raises:
        ReadoutError: They differ.
        ModelError: A row's logits depend on other rows.
    """
    model, last = attachment.parts.model, attachment.parts.num_layers
    tokens = inputs[:1, :TOKENS] if isinstance(inputs, mx.array) and inputs.ndim == 2 and inputs.size else mx.array([[0]])

    def run() -> mx.array:
        return model(tokens, cache=make_prompt_cache(model))

    own = attachment.plain(run)
    tolerance = TOLERANCE.get(own.dtype, 5e-2)
    mature, again = attachment.read(run, (last,), plain=True)
    if _difference(own, again[0]) > tolerance:
        raise ReadoutError(
            f"The readout found in {named(model)} does not reproduce its logits: relative error "
            f"{_difference(own, again[0]):.2g}, allowed {tolerance:.0e}.",
            hint="use a model of another architecture",
        )
    beside, _ = attachment.read(run, attachment.layers, plain=True)
    if max(_difference(own, mature), _difference(own, beside)) > tolerance:
        raise ModelError(
            f"In {named(model)} a row's logits depend on other rows, as in heads that round all rows by one scale: layers "
            "cannot be read out through it.",
            hint="exclude the LM head from the quantization, or quantize its activations per token",
        )


def _difference(own: mx.array, other: mx.array) -> float:
    """The largest difference, relative to the largest logit."""
    own, other = own.astype(mx.float32), other.astype(mx.float32)
    if own.shape != other.shape:
        return float("inf")
    finite = mx.isfinite(own)
    size = mx.where(finite, mx.abs(own), 0).max()
    gap = mx.where(finite, mx.abs(own - other), 0).max()
    found = float((gap / mx.maximum(size, 1e-12)).item())
    return float("inf") if found != found else found
