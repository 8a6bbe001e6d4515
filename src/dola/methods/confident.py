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
from dola.methods.vocabulary import WHOLE, Vocabulary, wide

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
        scores = wide(mature, copy=True)
        walked = self._walked(mature, candidates)
        if torch.compiler.is_compiling():
            return self._whole_walk(scores, chosen, walked, downwards, candidates, vocab)
        rows = None if walked is None else walked.nonzero()[:, 0]  # None is all of them
        highest = entropy(mature if rows is None else mature[rows], vocab)
        for k in downwards[:FIRST] if rows is None or len(rows) else ():
            logits = candidates.logits(k, rows)
            found = entropy(logits, vocab)
            falls = found < highest  # the same on all workers
            rows = falls.nonzero()[:, 0] if rows is None else rows[falls]
            if not len(rows):
                return scores, chosen
            highest = found[falls]
            scores[rows], chosen[rows] = logits[falls].to(scores), k
        if rows is not None and len(rows):
            self._walk_on(scores, chosen, rows, highest, downwards[FIRST:], candidates, vocab)
        return scores, chosen

    def _walk_on(
        self,
        scores: Tensor,
        chosen: Tensor,
        rows: Tensor,
        highest: Tensor,
        downwards: list[int],
        candidates: Candidates,
        vocab: Vocabulary,
    ) -> None:
        """The rest of the walk in `rows` [r], whose entropies are `highest` [r]: several layers in one read of the head."""
        while downwards and len(rows):
            group = downwards[: max(1, AT_ONCE // len(rows))]
            downwards = downwards[len(group) :]
            logits = candidates.some(group, rows)
            found = entropy(logits, vocab)  # [k, r]
            steps = (found < torch.cat([highest[None], found[:-1]])).cumprod(dim=0).sum(dim=0)
            moved = steps > 0
            last = steps[moved] - 1
            scores[rows[moved]] = logits[last, moved.nonzero()[:, 0]].to(scores)
            chosen[rows[moved]] = torch.tensor(group, device=rows.device)[last]
            through = steps == len(group)
            rows, highest = rows[through], found[-1][through]

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


def entropy(logits: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
    """Entropy of softmax(logits) in nats, from [..., V] to [...]."""
    if vocab is WHOLE and native.reads(logits):
        return native.entropy(logits).nan_to_num(nan=0)  # as below: a layer that is NaN ends the walk there, and is reported
    log_p = vocab.log_softmax(logits)
    return -vocab.sum(torch.where(log_p > -torch.inf, log_p.exp() * log_p, 0))
