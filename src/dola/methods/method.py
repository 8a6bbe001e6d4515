"""The interface between a method and the rest of the package.

A method computes next-token scores from the logits of several layers. Its settings are a `MethodConfig` (config.py), whose
`build()` returns the `Method`. Decoding, scoring, traces, serving and reports call the method and contain no formula. A new
method is therefore one file, and one line in `registry.py` or an entry point in the group `dola.methods`.

    mature logits [R, V] ------------------> scores [R, V] -> transformers, vLLM, likelihoods, traces
    candidate logits, read on demand ------/
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dola.methods.vocabulary import WHOLE, Vocabulary

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig


class Candidates(ABC):
    """The K candidate layers of a configuration at R positions, in the order of its layers. Logits are computed on demand.

    `rows` are indices of positions; None means all of them. With a part of the vocabulary (`Shard`), logits cover this
    worker's columns, and every worker must read the same number of times.

    Attributes:
        layers: Numbers of the K layers, followed by that of the mature layer, for methods that depend on depth.
        positions: Position of each row in its own sequence, from 0 and without padding: int64 [R]. Only for methods that draw.
        saved: Number of rows left unread because no layer could change their token. Methods add to it; statistics show it.
    """

    layers: tuple[int, ...] = ()
    positions: Tensor | None = None
    saved = 0

    @abstractmethod
    def __len__(self) -> int:
        """K, the number of candidates."""

    @abstractmethod
    def logits(self, k: int | None = None, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        """Logits [K, r, V] of all candidates, or [r, V] of the k-th, read out as the configuration says."""

    def some(self, layers: Sequence[int], rows: Sequence[int] | Tensor | None = None) -> Tensor:
        """Logits [k, r, V] of k candidates, by their places among the K; in one read of the head's weights if possible."""
        if len(layers) == 1:  # not stacked, so not copied
            return self.logits(layers[0], rows)[None]
        return torch.stack([self.logits(k, rows) for k in layers])

    def with_entropy(self, layers: Sequence[int], rows: Sequence[int] | Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """`some`, and the entropies of their softmax in nats [k, r], if a kernel computed them on the way."""
        return self.some(layers, rows), None

    @abstractmethod
    def combined(self, mature: Tensor, weights: Tensor, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        """Weighted sum over the layers of their logits, [r, V].

        A linear head is applied once, whatever K is; a head with a soft-cap is applied to each layer.

        Args:
            mature: Mature logits [r, V] of these rows.
            weights: Weight of each candidate, followed by that of the mature layer, [K+1].
            rows: As for `logits`.
        """

    def mature_log_z(self) -> Tensor | None:
        """Log sum exp of the mature logits [R], or None if it has not been computed yet."""
        return None

    def mature_entropy(self) -> Tensor | None:
        """Entropy of the mature softmax in nats [R], or None if it has not been computed yet."""
        return None

    def read(self, mature: Tensor, log_z: Tensor, rows: Tensor, *, jsd: bool) -> ReadRows:
        """All candidates in some rows, with what kernels find out about them on the way.

        Args:
            mature: Mature logits of all positions [R, V].
            log_z: Their log sum exp [R].
            rows: The positions to read, int64 [r].
            jsd: Whether the layer that diverges most is of use.
        """
        return ReadRows(self.logits(rows=rows).to(mature.device), torch.arange(len(rows), device=mature.device))


@dataclass
class ReadRows:
    """The candidates in r rows.

    Attributes:
        logits: Logits [K, S, V] of at least these rows.
        places: The place of each row in `logits`, int64 [r].
        log_z: Log sum exp [K, r]; None if it has not been computed.
        jsd: Jensen-Shannon divergence less ln 2 [K, r], by which the largest of a row can be found: -inf for layers that a
            bound rules out. None if it was not wanted or no kernel computes it.
    """

    logits: Tensor
    places: Tensor
    log_z: Tensor | None = None
    jsd: Tensor | None = None


AT_ONCE = 16
"""Rows that go through the head in the time of one, because reading its weights takes longest."""


class Method(ABC):
    """Computes next-token scores from the logits of several layers. Stateless: one instance can serve any number of calls.

    Attributes:
        config: The settings.
        reads_all: Whether each undecided row reads all its candidates.
        divergence: The divergence that traces show for each layer.
        selects: Whether the scores depend only on the candidate that diverges most. They then equal the scores that this
            candidate gives when it is the only one.
    """

    reads_all: bool = True
    divergence: str = "jsd"
    selects: bool = False

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    def first_reads(self, layers: tuple[int, ...], rows: int = 1) -> Tensor:
        """What nearly every row reads: weighted sums of the candidates, [m, K]. A row of the identity is a single candidate.

        One product can read these along with the mature row. By default all candidates, or none if `reads_all` is False.

        Args:
            layers: As `Candidates.layers`.
            rows: How many rows a step has, at most `AT_ONCE`. With few of them, more reads are free.
        """
        candidates = len(layers) - 1
        return torch.eye(candidates)[: candidates if self.reads_all else 0]

    @abstractmethod
    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        """Scores [R, V], float32 or better; their softmax is the next-token distribution.

        Args:
            mature: The model's own logits [R, V].
            candidates: The premature layers at the same positions.
            vocab: The vocabulary, or this worker's part of it.
            lazy: Whether only the choice of the token matters. The method may then skip rows whose choice no layer can change.
        """

    def decide(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> tuple[Tensor, Tensor]:
        """`scores` and `weights`. Override this if one reading of the candidates gives both."""
        return self.scores(mature, candidates, vocab), self.weights(mature, candidates, vocab)

    def support(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """The tokens that the method can choose, bool [..., V], never empty. If bans remove all, the mature scores decide."""
        return torch.ones_like(mature, dtype=torch.bool)

    @property
    def rules_out(self) -> bool:
        """Whether `support` can leave tokens out. Otherwise `generate` need not look for rows whose support is banned."""
        return type(self).support is not Method.support

    def contested(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """The tokens whose order the layers can change, bool [..., V], never empty. By default the support."""
        return self.support(mature, vocab)

    def settled(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """Rows [...] with a single contested token, in which no layer can change the choice."""
        return vocab.sum(self.contested(mature, vocab).float()) == 1  # vLLM gathers no integers on CPUs

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        """Weight of each layer in each row, [K+1, R], the mature layer last.

        Where a single candidate has one, traces and reports name it as the layer that was used. Where only the mature layer
        counts, all other weights are 0.
        """
        shape = (len(candidates) + 1, len(mature))
        return torch.full(shape, 1 / shape[0], device=mature.device)


def only_candidate(weights: Tensor) -> Tensor:
    """The index of the candidate that alone has a weight in each row, int64 [R]; -1 where several have one, or none.

    Args:
        weights: What `Method.weights` returns, [K+1, R].
    """
    has = weights[:-1] != 0
    return has.float().argmax(dim=0).masked_fill(has.sum(dim=0) != 1, -1)
