"""Provides the readout of a model of vLLM to the decoder, from vLLM's parts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from dola import native
from dola.integrations.vllm.parts import Parts
from dola.integrations.vllm.proof import difference, normed
from dola.integrations.vllm.sharded import ShardedHead, shard
from dola.lens.fingerprint import numbers_of, statistics_of
from dola.methods.vocabulary import WHOLE
from dola.model.readout import Readout


class VLLMModel:
    """A model of vLLM for the decoder (`serving.decoder.EngineModel`).

    Args:
        model: A causal language model of vLLM.
        compute_logits: Everything that it does after the final norm.
        parts: Its parts.
    """

    engine = "vLLM"

    def __init__(self, model: Any, compute_logits: Callable[[Tensor], Tensor], parts: Parts) -> None:
        self._parts, self._sharded = parts, ShardedHead.of(parts)
        self.name = type(model).__name__
        self.vocab = shard() if self._sharded else WHOLE
        self.logits = compute_logits
        self.local = self._sharded.local(compute_logits) if self._sharded else compute_logits

    def whole(self, local: Tensor) -> Tensor | None:
        """All workers' columns; None on workers that do not sample."""
        return self._sharded.whole(local) if self._sharded else local

    def statistics(self) -> dict[str, Tensor]:
        """See `EngineModel.statistics`: the norms, which all workers hold, and other weights that one worker holds completely.

        vLLM joins some weights (query, key and value); no lens has statistics under those names.
        """
        parts = self._parts
        blocks = [(f"block.{j}", parts.blocks[j]) for j in parts.here()]
        found = statistics_of([*blocks, *([] if parts.norm is None else [("norm", parts.norm)])])
        if self._sharded:
            return {name: numbers for name, numbers in found.items() if "norm" in name}
        weight = getattr(parts.head, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point() and weight.numel():
            found["head.weight"] = numbers_of(weight[: _vocabulary(parts)])
        return found

    def readout(self, *, raw: bool) -> Readout:
        """The readout from residual streams to logits; only this worker's columns if it has a part of the head."""
        return readout_of(self._parts, self.logits, raw=raw, sharded=self._sharded)

    def logits_in_three_ways(self, states: Tensor, returned: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits of this worker's columns, for the proof: the model's, a candidate's, and the head's own.

        Args:
            states: Outputs of the last block, [R, d].
            returned: What the model returned for these rows.
        """
        parts = self._parts

        def by_parts(hidden: Tensor) -> Tensor:
            logits: Tensor = parts.processor(parts.head, hidden, getattr(parts.head, "bias", None))
            return logits

        read = self._sharded.local(by_parts) if self._sharded else by_parts
        alone = None if parts.head is None or parts.processor is None else read(returned)
        return self.local(returned), self.readout(raw=False).readout(states), alone


def readout_of(
    parts: Parts, compute_logits: Callable[[Tensor], Tensor], *, raw: bool = False, sharded: ShardedHead | None = None
) -> Readout:
    """The readout of a model, from a residual stream [..., d] to logits [..., V].

    Args:
        parts: The parts of a model of vLLM.
        compute_logits: Everything that it does after the final norm.
        raw: Whether to omit its change to the head's output, as DoLaConfig.reference requires.
        sharded: The head if this worker has a part of it: logits are those of its columns.
    """
    head = parts.head

    def bare_head(hidden: Tensor) -> Tensor:
        logits: Tensor = parts.processor._get_logits(hidden, head, getattr(head, "bias", None))
        return logits

    def final_norm(hidden: Tensor) -> Tensor:
        found = hidden if parts.norm is None else normed(parts.norm, hidden)
        return found if parts.scale == 1 else found * parts.scale

    read: Callable[[Tensor], Tensor] = bare_head if raw else Head(parts, compute_logits)
    if not isinstance(read, Head) or sharded:
        read = _by_rows(sharded.local(read) if sharded else read)
    return Readout(final_norm=_by_rows(final_norm), projection=None, head=read)


AS_THE_MODEL = 2e-2
"""Largest difference of the kernel's logits from the model's, relative to the largest logit."""


class Head:
    """From rows [..., d] to logits [..., V]: in the model's own way, or with dola's kernel if the result is the same.

    On CPUs the kernel reads the weights once for all rows. It only multiplies, so models with a soft-cap, a scale or a bias use
    their own way. The first row is read both ways, to detect a class that does more than it declares.
    """

    def __init__(self, parts: Parts, compute_logits: Callable[[Tensor], Tensor]) -> None:
        self._compute_logits = compute_logits
        self._weight = _plain_weight(parts)
        self._checked = False

    def __call__(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of rows [..., d]."""
        return self.kernel_product(hidden).logits

    def kernel_product(self, hidden: Tensor) -> native.Product:
        """The logits, and what the kernel found on the way if it reads the head."""
        rows = hidden.flatten(0, -2).contiguous()
        if not self._suits(rows):
            return native.Product(self._compute_logits(rows).view(*hidden.shape[:-1], -1))
        assert self._weight is not None
        return native.head_product(self._weight, rows.view_as(hidden))

    def _suits(self, rows: Tensor) -> bool:
        if self._weight is None or rows.dtype != self._weight.dtype:
            return False
        if not self._checked:
            own, ours = self._compute_logits(rows[:1]), native.head_product(self._weight, rows[:1]).logits
            self._checked = True
            if not difference(ours, own) <= AS_THE_MODEL:
                self._weight = None
        return self._weight is not None


def _plain_weight(parts: Parts) -> Tensor | None:
    """The weight [V, d] of a head that only multiplies and that the kernel can read; None for any other."""
    head, after = parts.head, parts.processor
    if after is None or type(getattr(head, "quant_method", None)).__name__ != "UnquantizedEmbeddingMethod":
        return None
    # A soft-cap hardly changes small logits: comparing one row would not detect it.
    plain = after.soft_cap is None and after.scale == 1 and getattr(head, "bias", None) is None
    if getattr(head, "tp_size", 1) > 1 or not plain:
        return None
    weight = head.weight[: after.org_vocab_size].detach()
    return weight if native.streams(weight) else None


def _vocabulary(parts: Parts) -> int | None:
    return None if parts.processor is None else int(parts.processor.org_vocab_size)


def _by_rows(function: Callable[[Tensor], Any]) -> Callable[[Tensor], Tensor]:
    """Adapt a function of vLLM, which accepts rows [R, d], to rows of any leading shape."""

    def on_rows(hidden: Tensor) -> Tensor:
        rows: Tensor = function(hidden.flatten(0, -2).contiguous())
        return rows.view(*hidden.shape[:-1], -1)

    return on_rows
