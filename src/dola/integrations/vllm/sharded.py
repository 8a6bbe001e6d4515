"""Tensor parallelism: each worker has the head's rows for a part of the vocabulary, and contrasts that part.

    plain decoding     local logits --gather--> [N, V]
    dola               local logits and candidates --contrast, few numbers per row exchanged--> local scores --gather--> [N, V]

So workers gather the same as without DoLa, in float32, plus the mature logits of rows that may be banned. The candidates'
distributions never leave them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from dola.integrations.vllm.parts import Parts
from dola.methods.vocabulary import Shard


class ShardedHead:
    """A model's head on one of several workers.

    Args:
        parts: The parts of a model of vLLM, with a head and a LogitsProcessor.
    """

    def __init__(self, parts: Parts) -> None:
        self._processor, self._columns = parts.processor, parts.head.shard_indices.num_org_elements

    @classmethod
    def of(cls, parts: Parts) -> ShardedHead | None:
        """The head's shard; None if one worker has the whole head."""
        return cls(parts) if getattr(parts.head, "tp_size", 1) > 1 else None

    def local(self, read: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """`read`, from rows to logits, without gathering: logits of this worker's columns, -inf for those without a token."""

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
            del self._processor._gather_logits  # removes the instance's attribute, which hides the class's


def shard() -> Shard:
    """This worker's part of the vocabulary."""
    from vllm.distributed import get_tensor_model_parallel_rank

    return Shard(_gather, get_tensor_model_parallel_rank())


def _gather(value: Tensor) -> Tensor:
    from vllm.distributed import tensor_model_parallel_all_gather

    found: Tensor = tensor_model_parallel_all_gather(value[None].contiguous(), dim=0)
    return found


def _as_it_is(logits: Tensor) -> Tensor:
    return logits
