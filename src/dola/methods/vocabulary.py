"""Sums over the vocabulary: over all of it, or by several workers that have a part each. The last dimension is the tokens'.

`WHOLE` is the vocabulary of one process. A `Shard` is the part that one of several workers has: all workers call the same
functions, each with its own columns, and what crosses between them are a few numbers for each distribution, never the
distributions. Conditions of loops have to be made of such numbers: all workers then go round equally often. So formulas are
written once, and none of them asks which of the two it has.
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

    def topk(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest of [..., V], or all where there are fewer: values and their ids, [..., k] each, the largest first."""
        found = values.topk(min(k, values.shape[-1]))
        return found.values, found.indices

    def at(self, values: Tensor, ids: Tensor) -> Tensor:
        """The values [..., k] of [..., V] at ids that `topk` gave."""
        return values.gather(-1, ids)

    def put(self, values: Tensor, ids: Tensor, new: Tensor | float) -> Tensor:
        """[..., V] with `new` [..., k], or one number, in the place of the values at these ids. A copy."""
        return values.scatter(-1, ids, new)


WHOLE = Vocabulary()


@dataclass(frozen=True)
class Shard(Vocabulary):
    """One worker's columns. Columns without a token are -inf.

    Ids of tokens count columns, those of the first worker first, as if every worker had as many as the widest.

    Attributes:
        gather: What every worker has of a value: from [...] to [workers, ...], the same on all of them.
        rank: Which of the workers this one is, from 0. Needed where single tokens are asked for (`at`, `put`).
    """

    gather: Callable[[Tensor], Tensor]
    rank: int | None = None

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

    def topk(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest of all workers' columns: each worker's own k are enough to find them."""
        columns = self._columns(values)
        mine = values.topk(min(k, values.shape[-1]))
        behind = (0, k - mine.values.shape[-1])
        best = self._side_by_side(torch.nn.functional.pad(mine.values, behind, value=-torch.inf))
        places = self._side_by_side(
            torch.nn.functional.pad(mine.indices, behind).to(torch.float32)
        )  # integers: see Method.settled
        workers = torch.arange(best.shape[-1] // k, device=values.device).repeat_interleave(k)
        found = best.topk(min(k, int(columns.sum())))
        return found.values, (workers * self._stride(columns) + places.long()).gather(-1, found.indices)

    def at(self, values: Tensor, ids: Tensor) -> Tensor:
        """From the workers that have them."""
        mine, column = self._mine(values, ids)
        return self.gather(torch.where(mine, values.gather(-1, column), 0)).sum(dim=0)

    def put(self, values: Tensor, ids: Tensor, new: Tensor | float) -> Tensor:
        """Into this worker's columns; the others put theirs."""
        mine, column = self._mine(values, ids)
        one_more = torch.nn.functional.pad(values, (0, 1))  # takes what is another worker's
        return one_more.scatter(-1, torch.where(mine, column, values.shape[-1]), new)[..., :-1]

    def _mine(self, values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which ids are of this worker's columns, and the columns; 0 for the others."""
        if self.rank is None:
            raise ValueError("A Shard without a rank cannot tell which tokens are its own.")
        stride = self._stride(self._columns(values))
        mine = ids // stride == self.rank
        return mine, torch.where(mine, ids % stride, 0)

    def _columns(self, values: Tensor) -> Tensor:
        """How many columns each worker has, [workers]."""
        return self.gather(torch.full((), float(values.shape[-1]), device=values.device))

    @staticmethod
    def _stride(columns: Tensor) -> int:
        return int(columns.max())

    def _side_by_side(self, values: Tensor) -> Tensor:
        """All workers' values, from [..., k] to [..., workers * k]."""
        return self.gather(values).movedim(0, -2).flatten(-2)


def log_probs(logits: Tensor) -> Tensor:
    """log_softmax over the whole vocabulary, in float32 or better."""
    return WHOLE.log_softmax(logits)
