"""Where a model of vLLM keeps what DoLa reads: the same Anatomy as for models of transformers, from vLLM's parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dola.anatomy import Anatomy
from dola.errors import ModelError

NORMS = ("norm", "norm_f", "final_layernorm")


def anatomy_of(model: Any, compute_logits: Callable[[Tensor], Tensor], *, raw: bool = False) -> Anatomy:
    """The readout of a model, from a residual stream [..., d] to logits [..., V].

    Args:
        model: A causal language model of vLLM.
        compute_logits: All that it does behind the final norm.
        raw: Leave out what it does to the head's output, as DoLaConfig.reference wants it.

    Raises:
        ModelError: A model whose final norm is not found.
    """
    decoder = model.get_language_model() if hasattr(model, "get_language_model") else model
    decoder = getattr(decoder, "model", decoder)
    norm = next((getattr(decoder, name) for name in NORMS if hasattr(decoder, name)), None)
    if norm is None:
        raise ModelError(
            f"{type(model).__name__} has no final norm under the names {', '.join(NORMS)}.",
            hint="please report the model: its layers cannot be read out",
        )

    def bare_head(hidden: Tensor) -> Tensor:
        logits: Tensor = model.logits_processor._get_logits(hidden, model.lm_head, None)
        return logits

    return Anatomy(
        lm=model,
        blocks=(),
        final_norm=_by_rows(norm),
        projection=None,
        head=_by_rows(bare_head if raw else compute_logits),
    )


def _by_rows(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """vLLM's kernels take rows [R, d]; ours come as [K, R, d] too."""

    def on_rows(hidden: Tensor) -> Tensor:
        found: Tensor = function(hidden.flatten(0, -2).contiguous())
        return found.view(*hidden.shape[:-1], -1)

    return on_rows
