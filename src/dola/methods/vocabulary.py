"""Reductions over the vocabulary, in one process or across workers that hold a part each. Tokens are the last dimension.

`WHOLE` is the vocabulary of one process. A `Shard` is the part that one of several workers holds. All workers call the same
functions, each with its own columns, and exchange a few numbers per distribution, never whole distributions. A loop's condition
must depend on such exchanged numbers only, so that all workers run the same number of iterations. Each formula is then written
once for both cases.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that scores are computed in: float32 or better."""
    return torch.promote_types(dtype, torch.float32)


def wide(values: Tensor, *, copy: bool = False) -> Tensor:
    """Values in float32 or better; with `copy`, always a new tensor."""
    return values.to(wide_dtype(values.dtype), copy=copy)


@dataclass(frozen=True)
class Vocabulary:
    """All columns in one process."""

    def amax(self, values: Tensor) -> Tensor:
        """Largest value, from [..., V] to [...]."""
        return values.amax(dim=-1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum, from [..., V] to [...]."""
        return values.sum(dim=-1)

    def mean(self, values: Tensor) -> Tensor:
        """Mean, from [..., V] to [...]."""
        return values.mean(dim=-1)

    def logsumexp(self, values: Tensor) -> Tensor:
        """Log sum exp, from [..., V] to [...]."""
        return values.logsumexp(dim=-1)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """Log-probabilities [..., V] in float32 or better; log-probabilities stay as they are."""
        return logits.log_softmax(dim=-1, dtype=wide_dtype(logits.dtype))

    def topk(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest values of [..., V], or all if there are fewer, and their ids, [..., k] each, in descending order."""
        found = values.topk(min(k, values.shape[-1]))
        return found.values, found.indices

    def at(self, values: Tensor, ids: Tensor) -> Tensor:
        """The values [..., k] at ids from `topk`."""
        return values.gather(-1, ids)

    def put(self, values: Tensor, ids: Tensor, new: Tensor | float) -> Tensor:
        """A copy of [..., V] with the values at these ids replaced by `new` [..., k] or by one number."""
        return values.scatter(-1, ids, new)


WHOLE = Vocabulary()


@dataclass(frozen=True)
class Shard(Vocabulary):
    """One worker's columns. Padding columns, which have no token, are -inf.

    Token ids number the columns worker by worker, as if every worker had as many columns as the widest.

    Attributes:
        gather: Collects a value from all workers: from [...] to [workers, ...], with the same result on each.
        rank: Number of this worker, from 0. Needed by `at` and `put`.
    """

    gather: Callable[[Tensor], Tensor]
    rank: int | None = None

    def amax(self, values: Tensor) -> Tensor:
        """Largest value over all workers' columns."""
        return self.gather(values.amax(dim=-1)).amax(dim=0)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over all workers' columns, always in worker order, so that every worker gets the same number."""
        return self.gather(values.sum(dim=-1)).sum(dim=0)

    def mean(self, values: Tensor) -> Tensor:
        """Mean over all workers' columns, padding included."""
        columns = self.gather(torch.full(values.shape[:-1], float(values.shape[-1]), device=values.device))
        return self.sum(values) / columns.sum(dim=0)

    def logsumexp(self, values: Tensor) -> Tensor:
        """Log sum exp over all workers' columns."""
        return self.gather(values.logsumexp(dim=-1)).logsumexp(dim=0)

    def log_softmax(self, logits: Tensor) -> Tensor:
        """This worker's columns of the log-probabilities."""
        values = wide(logits)
        return values - self.logsumexp(values)[..., None]

    def topk(self, values: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The k largest over all workers' columns, found among each worker's own k largest."""
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
        """The values at these ids, from the workers that hold them."""
        mine, column = self._mine(values, ids)
        return self.gather(torch.where(mine, values.gather(-1, column), 0)).sum(dim=0)

    def put(self, values: Tensor, ids: Tensor, new: Tensor | float) -> Tensor:
        """Replace the values in this worker's columns; the other workers replace theirs."""
        mine, column = self._mine(values, ids)
        one_more = torch.nn.functional.pad(values, (0, 1))  # receives the values that belong to other workers
        return one_more.scatter(-1, torch.where(mine, column, values.shape[-1]), new)[..., :-1]

    def _mine(self, values: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Which ids are in this worker's columns, and their columns; 0 for all other ids."""
        if self.rank is None:
            raise ValueError("A Shard without a rank cannot tell which tokens are its own.")
        stride = self._stride(self._columns(values))
        mine = ids // stride == self.rank
        return mine, torch.where(mine, ids % stride, 0)

    def _columns(self, values: Tensor) -> Tensor:
        """Number of columns of each worker, [workers]."""
        return self.gather(torch.full((), float(values.shape[-1]), device=values.device))

    @staticmethod
    def _stride(columns: Tensor) -> int:
        return int(columns.max())

    def _side_by_side(self, values: Tensor) -> Tensor:
        """All workers' values in one row, from [..., k] to [..., workers * k]."""
        return self.gather(values).movedim(0, -2).flatten(-2)


def log_probs(logits: Tensor) -> Tensor:
    """log_softmax over the whole vocabulary, in float32 or better."""
    return WHOLE.log_softmax(logits)
