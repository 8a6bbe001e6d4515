"""Tensor parallelism: each worker has the head's rows for a part of the vocabulary, and contrasts that part.

    plain decoding     local logits --gather--> [N, V]
    dola               local logits and candidates --contrast, few numbers per row exchanged--> local scores --gather--> [N, V]

So what the workers gather is what they gather without DoLa, in float32, and the mature logits of rows that may be banned. The
candidates' distributions never leave them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dola.decoding.step import Reading, Step
from dola.integrations.vllm.parts import head_of
from dola.methods.config import DoLaConfig
from dola.methods.contrast import contrast, plausible
from dola.methods.vocabulary import Shard
from dola.model.readout import Readout


class ShardedHead:
    """A model's head on one of several workers.

    Args:
        model: A causal language model of vLLM, with a `logits_processor`.
    """

    def __init__(self, model: Any) -> None:
        self._processor, self._columns = model.logits_processor, head_of(model).shard_indices.num_org_elements

    @classmethod
    def of(cls, model: Any) -> ShardedHead | None:
        """The head's shard; None where one worker has all of it."""
        return cls(model) if getattr(head_of(model), "tp_size", 1) > 1 else None

    def local(self, read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`read`, from rows to logits, kept from gathering: logits of this worker's columns, -inf where they have no token."""

        def local(hidden: Tensor) -> Tensor:
            with self._alone():
                logits = read(hidden)
            logits[..., self._columns :] = -math.inf
            return logits

        return local

    def whole(self, local: Tensor) -> Tensor | None:
        """All workers' columns, [N, V]; None on workers that do not sample."""
        found: Tensor | None = self._processor._gather_logits(local.contiguous())
        return None if found is None else found[..., : self._processor.org_vocab_size]

    @contextmanager
    def _alone(self) -> Any:
        self._processor._gather_logits = _as_it_is
        try:
            yield
        finally:
            del self._processor._gather_logits  # the instance's, so that the class's is seen again


class ShardedStep(Step):
    """As Step, for logits of this worker's columns."""

    def __init__(self, readout: Readout, config: DoLaConfig) -> None:
        super().__init__(readout, config)
        self._shard = Shard(_gather)

    def _contrast(self, mature: Tensor, read: Reading | list[Tensor], lazy: bool) -> Tensor:
        assert isinstance(read, list)
        if not lazy or mature.device.type != "cpu":  # an accelerator would have to wait for the host
            return self._scores(mature, self._read_apart(read))
        kept = plausible(mature, self.config.relative_top, vocab=self._shard)
        undecided = self._shard.sum(kept.float()) > 1  # vLLM gathers no integers on CPUs
        scores = self._scores(mature, mature[None])  # its one plausible token scores 0
        self.rows_saved += len(mature) - int(undecided.sum())
        if undecided.any():  # on all workers or on none
            scores[undecided] = self._scores(mature[undecided], self._read_apart([layer[undecided] for layer in read]))
        return scores

    def _scores(self, mature: Tensor, premature: Tensor) -> Tensor:
        config = self.config
        return contrast(mature, premature, relative_top=config.relative_top, divergence=config.divergence, vocab=self._shard)


def _gather(value: Tensor) -> Tensor:
    from vllm.distributed import tensor_model_parallel_all_gather

    found: Tensor = tensor_model_parallel_all_gather(value[None].contiguous(), dim=0)
    return found


def _as_it_is(logits: Tensor) -> Tensor:
    return logits
