"""DeLTa: extrapolate each token's logits beyond the last layer along a fitted line (arXiv 2503.02343).

For layers x_1 .. x_n, including the mature one, and L = N + beyond, least squares give

    z = sum_l w_l z_l,    w_l = 1/n + (x_l - mean x)(L - mean x) / sum_l (x_l - mean x)^2,    sum_l w_l = 1

on the plausible set of the mature layer. The weights are the same for all tokens. So a linear head is applied only once, to a
weighted sum of hidden states, whatever the number of layers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dola import native
from dola.methods.contrast import plausible
from dola.methods.floors import IMPLAUSIBLE, margin, with_floor
from dola.methods.method import Candidates, Method
from dola.methods.vocabulary import WHOLE, Vocabulary, wide, wide_dtype

if TYPE_CHECKING:
    from dola.methods.config_delta import DeLTaConfig


class DeLTa(Method):
    """Scores: the line's value on the plausible set, and a floor below it. A row with one plausible token is settled."""

    reads_all = False
    config: DeLTaConfig

    def first_reads(self, layers: tuple[int, ...], rows: int = 1) -> Tensor:
        """The candidates' part of the line, as one combined state."""
        return line_weights(layers, self.config.beyond)[None, :-1].float()

    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        """See `Method.scores`."""
        line = line_weights(candidates.layers, self.config.beyond).to(mature.device, wide_dtype(mature.dtype))
        if lazy and vocab is WHOLE and mature.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._sparse(mature, candidates, line)
        logits = wide(mature, copy=True)
        support = self.support(mature, vocab)
        if not lazy or torch.compiler.is_compiling():
            return with_floor(candidates.combined(logits, line), support, logits, vocab)
        open_rows = (~self.settled(mature, vocab)).nonzero()[:, 0]
        candidates.saved += len(mature) - len(open_rows)
        scores = logits.clone()  # a single plausible token is chosen, whatever its score
        if len(open_rows):
            scores[open_rows] = candidates.combined(logits[open_rows], line, open_rows)
        return with_floor(scores, support, logits, vocab)

    def _sparse(self, mature: Tensor, candidates: Candidates, line: Tensor) -> Tensor:
        """The same on a CPU: the kernels find the plausible tokens, and the line is taken there alone."""
        apart = margin(self.config.relative_top)
        opened = native.open_rows(mature, margin=apart, below=IMPLAUSIBLE, log_z=candidates.mature_log_z())
        scores = opened.scores
        is_open = opened.counts != 1
        open_rows = is_open.nonzero()[:, 0]
        candidates.saved += len(mature) - len(open_rows)
        values = mature[opened.rows, opened.tokens].to(scores.dtype)
        if len(open_rows):
            here, of_rows = opened.within(is_open)
            found = candidates.combined(mature[open_rows].to(scores.dtype), line, open_rows)
            values[here] = found[of_rows, opened.tokens[here]].to(scores.dtype)
        least = values.new_full((len(mature),), math.inf).scatter_reduce(0, opened.rows, values, "amin")
        scores += least[:, None]
        scores[opened.rows, opened.tokens] = values
        return scores

    def support(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """The plausible set of the mature layer."""
        return plausible(mature, self.config.relative_top, vocab=vocab)

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        """The line's weights, the same in each row."""
        line = line_weights(candidates.layers, self.config.beyond)
        return line.to(mature.device, torch.float32)[:, None].expand(-1, len(mature))


def line_weights(layers: tuple[int, ...], beyond: float) -> Tensor:
    """The weights w_l, float64 [n]. The last layer is the mature one."""
    x = torch.tensor(layers, dtype=torch.float64)
    away = x - x.mean()
    return 1 / len(x) + away * (layers[-1] + beyond - x.mean()) / (away**2).sum()
