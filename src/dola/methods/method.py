"""The seam: what a method is, and what the rest of the product asks of one.

A method makes the scores of the next token from what the layers of a model say. Its settings are a `MethodConfig` (config.py),
whose `build()` gives the `Method`. Decoding, scoring, traces, serving and reports call the method and know no formula; so a
new method is one file, and one line in `registry.py` or an entry point of the group `dola.methods`.

    mature logits [R, V] ------------------------> scores [R, V] -> transformers, vLLM, likelihoods, traces
    candidates, read when they are asked for ----/
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dola.methods.vocabulary import WHOLE, Vocabulary

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig


class Candidates(ABC):
    """The K candidate layers of a configuration at R positions, in its order. Nothing is read before it is asked for.

    `rows` are indices of positions; without them all are meant. With a part of the vocabulary (`Shard`) logits are those of
    this worker's columns, and all workers have to read equally often.

    Attributes:
        layers: The numbers of the K layers, and last that of the mature one: what rules of depth need.
        positions: Position of each row in its own sequence, from 0, padding left out: int64 [R]. Only for methods that draw.
        saved: Rows that the method left unread because no layer could change their token: for statistics. Methods add to it.
    """

    layers: tuple[int, ...] = ()
    positions: Tensor | None = None
    saved = 0

    @abstractmethod
    def __len__(self) -> int:
        """K."""

    @abstractmethod
    def logits(self, k: int | None = None, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        """Logits [K, r, V] of all candidates, or [r, V] of the k-th, as the configuration reads them out."""

    @abstractmethod
    def combined(self, mature: Tensor, weights: Tensor, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        """Logits [r, V] of the sum over layers, by weights [K+1] with the mature layer last.

        One product with a linear head, whatever K is; a head with a soft-cap is read for each layer.

        Args:
            mature: The mature logits [r, V] of these rows.
            weights: The weight of each candidate, and last that of the mature layer.
            rows: As `logits`.
        """

    def mature_log_z(self) -> Tensor | None:
        """Log sum exp of the mature logits [R], where it is known already."""
        return None

    def blocks(self, rows: list[int]) -> Iterator[list[int]]:
        """`rows` in the portions in which they are best asked for."""
        yield rows

    def compared(
        self, mature: Tensor, log_z: list[Tensor], premature: Tensor, rows: list[int], *, jsd: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """Log sum exp [K, r] and Jensen-Shannon divergence less ln 2 [K, r] of candidates, where a kernel makes them.

        Args:
            mature: The mature logits of all positions [R, V].
            log_z: Log sum exp of those of `rows`, r scalars.
            premature: What `logits(rows=rows)` gave.
            rows: A portion from `blocks`.
            jsd: Whether divergences are asked for.
        """
        return None, None


class Method(ABC):
    """A rule that makes scores from layers. Stateless: one instance may serve any number of calls.

    Attributes:
        config: The settings.
        reads_all: Whether each undecided row reads all its candidates, so that reading them with the mature row may pay.
        divergence: The divergence that traces show for each layer.
        selects: Whether the one candidate that diverges most makes the scores, alone: they are then those of this candidate
            where it is the only one.
    """

    reads_all: bool = True
    divergence: str = "jsd"
    selects: bool = False

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    @abstractmethod
    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        """Scores [R, V], float32 or better, whose softmax is the distribution that is decoded from.

        Args:
            mature: The model's own logits [R, V].
            candidates: The premature layers at the same positions.
            vocab: The vocabulary, or this worker's part of it.
            lazy: Whether nothing but the choice of the token matters, so that rows that no layer can change may be left as
                they are.
        """

    def decide(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> tuple[Tensor, Tensor]:
        """`scores` and `weights`. A method that finds both in one reading of its candidates says so here."""
        return self.scores(mature, candidates, vocab), self.weights(mature, candidates, vocab)

    def support(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """The tokens that the method can choose, bool [..., V], never empty. Bans that empty it leave the mature order."""
        return torch.ones_like(mature, dtype=torch.bool)

    def contested(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """The tokens among which the layers decide, bool [..., V], never empty: the support, unless a method says otherwise."""
        return self.support(mature, vocab)

    def settled(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """Rows [...] in which no layer can change the choice: a single token is contested."""
        return vocab.sum(self.contested(mature, vocab).float()) == 1  # vLLM gathers no integers on CPUs

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        """How much each layer counts in each row, [K+1, R], the mature layer last. For traces.

        Where nothing but the mature layer counts, all others are 0.
        """
        shape = (len(candidates) + 1, len(mature))
        return torch.full(shape, 1 / shape[0], device=mature.device)
