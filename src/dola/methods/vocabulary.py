"""Sums over the vocabulary: over all of it, or by several workers that have a part each. The last dimension is the tokens'.

`WHOLE` is the vocabulary of one process. A `Shard` is the part that one of several workers has: all workers call the same
functions, each with its own columns, and what crosses between them are a few numbers for each distribution, never the
distributions. So formulas are written once, and none of them asks which of the two it has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 or better: what scores are computed in."""
    return torch.promote_types(dtype, torch.float32)


def wide(values: Tensor, *, copy: bool = False) -> Tensor:
    """Values in float32 or better; a tensor of its own where a copy is asked for."""
    return values.to(wide_dtype(values.dtype), copy=copy)


@dataclass(frozen=True)
class Vocabulary:
    """All columns in one process."""

    def amax(self, values: Tensor) -> Tensor:
        """The largest, from [..., V] to [...]."""
        return values.amax(dim=-1)

    def sum(self, values: Tensor) -> Tensor:
        """From [..., V] to [...]."""
        return values.sum(dim=-1)

    def mean(self, values: Tensor) -> Tensor:
        """From [..., V] to [...]."""
        return values.mean(dim=-1)

    def logsumexp(self, values: Tensor) -> Tensor:
        """From [..., V] to [...]."""
        return values.logsumexp(dim=-1)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Log-probabilities [..., V] in float32 or better; log-probabilities stay as they are."""
        return logits.log_softmax(dim=-1, dtype=wide_dtype(logits.dtype))


WHOLE = Vocabulary()


@dataclass(frozen=True)
class Shard(Vocabulary):
    """One worker's columns. Columns without a token are -inf.

    Attributes:
        gather: What every worker has of a value: from [...] to [workers, ...], the same on all of them.
    """

    gather: Callable[[Tensor], Tensor]

    def amax(self, values: Tensor) -> Tensor:
        """The largest of all workers' columns."""
        return self.gather(values.amax(dim=-1)).amax(dim=0)

    def sum(self, values: Tensor) -> Tensor:
        """Over all workers' columns, in the order of the workers, so that all of them have the same number."""
        return self.gather(values.sum(dim=-1)).sum(dim=0)

    def mean(self, values: Tensor) -> Tensor:
        """Over all workers' columns; those without a token count."""
        columns = self.gather(torch.full(values.shape[:-1], float(values.shape[-1]), device=values.device))
        return self.sum(values) / columns.sum(dim=0)

    def logsumexp(self, values: Tensor) -> Tensor:
        """Over all workers' columns."""
        return self.gather(values.logsumexp(dim=-1)).logsumexp(dim=0)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """This worker's columns of the log-probabilities."""
        values = wide(logits)
        return values - self.logsumexp(values)[..., None]


def log_probs(logits: Tensor) -> Tensor:
    """log_softmax over the whole vocabulary, in float32 or better."""
    return WHOLE.log_softmax(logits)
