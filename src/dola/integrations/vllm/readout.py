"""Where a model of vLLM keeps what DoLa reads: the same Anatomy as for models of transformers, from vLLM's parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dola import native
from dola.anatomy import Anatomy
from dola.errors import ModelError
from dola.integrations.vllm.sharded import ShardedHead

NORMS = ("norm", "norm_f", "final_layernorm")


def anatomy_of(
    model: Any, compute_logits: Callable[[Tensor], Tensor], *, raw: bool = False, sharded: ShardedHead | None = None
) -> Anatomy:
    """The readout of a model, from a residual stream [..., d] to logits [..., V].

    Args:
        model: A causal language model of vLLM.
        compute_logits: All that it does behind the final norm.
        raw: Leave out what it does to the head's output, as DoLaConfig.reference wants it.
        sharded: The head, where this worker has a part of it: logits are those of its columns.

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

    head = bare_head if raw else Head(model, compute_logits)
    return Anatomy(
        lm=model,
        blocks=(),
        final_norm=_by_rows(norm),
        projection=None,
        head=_by_rows(sharded.local(head) if sharded else head),
    )


class Head:
    """From rows [R, d] to logits [R, V]: the model's own way, or dola's kernel where it gives the same.

    On CPUs the kernel reads the weights once for all rows. Whether a model does more to its logits than a product, such as a
    soft-cap, is not guessed: the first row is read both ways.
    """

    def __init__(self, model: Any, compute_logits: Callable[[Tensor], Tensor]) -> None:
        self._compute_logits = compute_logits
        self._weight = _plain_weight(model)
        self._checked = False

    def __call__(self, rows: Tensor) -> Tensor:
        """Logits [R, V] of rows [R, d]."""
        if self._weight is None or rows.dtype != self._weight.dtype:
            return self._compute_logits(rows)
        if not self._checked:
            own, ours = self._compute_logits(rows[:1]), native.head_product(self._weight, rows[:1])[0]
            self._checked = True
            if own.shape != ours.shape or not torch.allclose(own.float(), ours.float(), rtol=2e-2, atol=2e-2):
                self._weight = None
                return self._compute_logits(rows)
        return native.head_product(self._weight, rows)[0]


def _plain_weight(model: Any) -> Tensor | None:
    """The weight [V, d] of a head that the kernel can read; None where it is in parts, quantised or not on a CPU."""
    head = model.lm_head
    if getattr(head, "tp_size", 1) > 1 or type(head.quant_method).__name__ != "UnquantizedEmbeddingMethod":
        return None
    weight = head.weight[: model.logits_processor.org_vocab_size].detach()
    return weight if native.streams(weight) else None


def _by_rows(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """vLLM's kernels take rows [R, d]; ours come as [K, R, d] too."""

    def on_rows(hidden: Tensor) -> Tensor:
        found: Tensor = function(hidden.flatten(0, -2).contiguous())
        return found.view(*hidden.shape[:-1], -1)

    return on_rows
