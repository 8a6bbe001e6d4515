"""DoLa as a method: the contrast of contrast.py, in the form that is fastest on the device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dola.methods.contrast import contrast, plausible, select_premature
from dola.methods.method import Candidates, Method
from dola.methods.sparse import sparse
from dola.methods.vocabulary import WHOLE, Vocabulary

if TYPE_CHECKING:
    from dola.methods.config import DoLaConfig


class DoLa(Method):
    """Scores: the contrast with a floor, or logits of a distribution. A row with one plausible token is settled. In the
    distribution such a row is the model's own, so its candidates are not read even if the call returns scores."""

    selects = True
    config: DoLaConfig

    def __init__(self, config: DoLaConfig) -> None:
        super().__init__(config)
        self.divergence = config.divergence
        self._is_distribution = config.scores == "distribution"
        self.reads_all = not (self._is_distribution and config.strength == 0)  # 0: exactly the model's own logits
        self._how: dict[str, Any] = {
            name: getattr(config, name) for name in ("relative_top", "divergence", "strength", "scores")
        }

    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        """See `Method.scores`. A CPU contrasts row by row, on plausible tokens only. Other devices contrast all rows at once:
        nothing there depends on their values, so the device never waits for the host."""
        on_cpu = mature.device.type == "cpu" and not torch.compiler.is_compiling()
        lazy = lazy or (self._is_distribution and self.config.lazy)
        if on_cpu and vocab is WHOLE:
            return sparse(mature, candidates, **self._how, lazy=lazy)
        if not (on_cpu and lazy):
            return self._contrast(mature, candidates.logits().to(mature.device), vocab)
        undecided = ~self.settled(mature, vocab)
        scores = self._contrast(mature, mature[None], vocab)  # in a settled row the plausible token ranks first
        candidates.saved += len(mature) - int(undecided.sum())
        if undecided.any():  # on all workers or on none
            premature = candidates.logits(rows=undecided).to(mature.device)
            scores[undecided] = self._contrast(mature[undecided], premature, vocab)
        return scores

    @property
    def rules_out(self) -> bool:
        """See `Method.rules_out`."""
        return not self._is_distribution

    def support(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """The plausible set; for a distribution all tokens, because those outside the set keep the model's probabilities."""
        return super().support(mature, vocab) if self._is_distribution else self.contested(mature, vocab)

    def contested(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """The plausible set."""
        return plausible(mature, self.config.relative_top, vocab=vocab)

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        """1 for the premature layer that is contrasted, 0 for all others."""
        chosen = select_premature(mature, candidates.logits(), divergence=self.config.divergence, vocab=vocab)
        weights = mature.new_zeros(len(candidates) + 1, len(mature))
        return weights.scatter_(0, chosen[None], 1)

    def _contrast(self, mature: Tensor, premature: Tensor, vocab: Vocabulary) -> Tensor:
        return contrast(mature, premature, **self._how, vocab=vocab)
