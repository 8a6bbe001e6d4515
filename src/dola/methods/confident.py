"""Confident Decoding: walk down from the last layer while each layer is more certain than the one above (arXiv 2606.21906).

    H_l = entropy of softmax(z_l);  l* = N;  for l = N-1, N-2, ...: if H_l < H_{l+1} then l* = l, else stop
    scores = z_{l*}

Most rows stop at the first layer. So the first layer is read for all rows, the next one only for rows that continue, and so on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dola import native
from dola.errors import InputError
from dola.methods.draws import uniform
from dola.methods.method import AT_ONCE, Candidates, Method
from dola.methods.vocabulary import WHOLE, Vocabulary, wide, wide_dtype

if TYPE_CHECKING:
    from dola.methods.config_confident import ConfidentConfig


FIRST = 4
"""Number of layers that are read along with the mature row, at least. Most walks end within them; about a fourth continue, and
would read the head again."""


class Confident(Method):
    """Scores: the logits of the layer where the walk ends."""

    reads_all = False
    config: ConfidentConfig

    def first_reads(self, layers: tuple[int, ...], rows: int = 1) -> Tensor:
        """The highest layers, where every walk begins; all that are read in the time of one row."""
        if self.config.probability < 1:
            return super().first_reads(layers, rows)
        downwards = sorted(range(len(layers) - 1), key=lambda k: layers[k], reverse=True)
        return torch.eye(len(layers) - 1)[downwards[: max(FIRST, AT_ONCE // rows - 1)]]

    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        """See `Method.scores`."""
        return self._walk(mature, candidates, vocab)[0]

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        """1 for the layer where the walk ends, 0 for all others."""
        return self.decide(mature, candidates, vocab)[1]

    def decide(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> tuple[Tensor, Tensor]:
        """See `Method.decide`."""
        scores, chosen = self._walk(mature, candidates, vocab)
        weights = scores.new_zeros(len(candidates) + 1, len(mature))
        return scores, weights.scatter_(0, chosen[None], 1)

    def _walk(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary) -> tuple[Tensor, Tensor]:
        """Scores [R, V], and the index of the candidate that gave them [R]; K is the mature layer."""
        downwards = sorted(range(len(candidates)), key=lambda k: candidates.layers[k], reverse=True)
        chosen = torch.full(mature.shape[:1], len(candidates), device=mature.device)
        walked = self._walked(mature, candidates)
        if torch.compiler.is_compiling():
            return self._whole_walk(wide(mature, copy=True), chosen, walked, downwards, candidates, vocab)
        scores = torch.empty(mature.shape, dtype=wide_dtype(mature.dtype), device=mature.device)

        def end(rows: Tensor, logits: Tensor, places: Tensor) -> None:
            """The walk of these rows ends at rows `places` of `logits` [n, V]: each row is copied once."""
            if len(rows):
                scores.index_copy_(0, rows, logits.index_select(0, places).to(scores))

        rows = torch.arange(len(mature), device=mature.device)
        if walked is not None:
            end(rows[~walked], mature, rows[~walked])
            rows = rows[walked]
        known = candidates.mature_entropy()
        highest = entropy(mature if walked is None else mature[rows], vocab, None if known is None else known[rows])
        above, places = mature, rows  # the layer above, and where in it the rows are
        numbers, read = torch.tensor(downwards, device=mature.device), 0
        while read < len(downwards) and len(rows):
            group = downwards[read : read + (1 if read < FIRST else max(1, AT_ONCE // len(rows)))]
            logits, of_logits = candidates.with_entropy(group, None if len(rows) == len(mature) else rows)  # [k, r, V]
            found = entropy(logits, vocab, of_logits)  # the same on all workers
            steps = (found < torch.cat([highest[None], found[:-1]])).cumprod(dim=0).sum(dim=0)
            stay = (steps == 0).nonzero()[:, 0]
            end(rows[stay], above, places[stay])
            if len(group) > 1:
                within = ((steps > 0) & (steps < len(group))).nonzero()[:, 0]
                end(rows[within], logits.flatten(0, 1), (steps[within] - 1) * len(rows) + within)
            moved = steps > 0
            chosen[rows[moved]] = numbers[read - 1 + steps[moved]]
            read += len(group)
            places = (steps == len(group)).nonzero()[:, 0]
            above, rows, highest = logits[-1], rows[places], found[-1][places]
        end(rows, above, places)
        return scores, chosen

    def _whole_walk(
        self,
        scores: Tensor,
        chosen: Tensor,
        walked: Tensor | None,
        downwards: list[int],
        candidates: Candidates,
        vocab: Vocabulary,
    ) -> tuple[Tensor, Tensor]:
        """`_walk` for a compiled graph, which cannot depend on values: every layer is read for all rows."""
        still, highest = torch.ones_like(chosen, dtype=torch.bool) if walked is None else walked, entropy(scores, vocab)
        for k in downwards:
            logits = candidates.logits(k).to(scores)
            found = entropy(logits, vocab)
            still, highest = still & (found < highest), found
            scores, chosen = torch.where(still[:, None], logits, scores), torch.where(still, k, chosen)
        return scores, chosen

    def _walked(self, mature: Tensor, candidates: Candidates) -> Tensor | None:
        """Rows in which the walk takes place, bool [R]; None for all."""
        if self.config.probability == 1:
            return None
        if self.config.probability == 0:
            return torch.zeros(mature.shape[:1], dtype=torch.bool, device=mature.device)
        if candidates.positions is None:
            raise InputError(
                f"probability={self.config.probability} draws by position, and positions are not known here.",
                hint="use probability=1",
            )
        return uniform(self.config.seed, candidates.positions.to(mature.device)) < self.config.probability


def entropy(logits: Tensor, vocab: Vocabulary = WHOLE, known: Tensor | None = None) -> Tensor:
    """Entropy of softmax(logits) in nats, from [..., V] to [...].

    Args:
        logits: [..., V].
        vocab: The vocabulary, or this worker's part of it.
        known: What the kernel found when it read these logits from the head, [...].
    """
    if vocab is WHOLE and (known is not None or native.reads(logits)):
        found = native.entropy(logits) if known is None else known
        return found.nan_to_num(nan=0)  # as below: a layer that is NaN ends the walk there, and is reported
    log_p = vocab.log_softmax(logits)
    return -vocab.sum(torch.where(log_p > -torch.inf, log_p.exp() * log_p, 0))
