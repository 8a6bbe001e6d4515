"""The contrast on a CPU, computed for plausible tokens only. The scores equal those of `contrast.contrast`.

Few tokens are plausible (3 of 49,152 on average), so computing F is cheap. The cost is in choosing the premature layer. The
divergence is a sum over the vocabulary of what the mature distribution p and a candidate q share:

    JSD(p, q) = ln 2 - 1/2 sum_x f(p_x, q_x),    f(a, b) = (a+b) ln(a+b) - a ln a - b ln b >= 0

f is concave and homogeneous, so its sum over any set of tokens is at most f(sum of p, sum of q): where p has little mass left,
a candidate cannot share much. The exact sum over tokens with p >= HEAD_MASS plus this bound for all others rule out most
candidates. Only the remaining ones are compared over the whole vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dola.methods.contrast import gain, plausible
from dola.methods.distribution import share_out
from dola.methods.divergences import DIVERGENCES
from dola.methods.floors import IMPLAUSIBLE
from dola.methods.method import Candidates
from dola.methods.vocabulary import WHOLE, wide_dtype

HEAD_MASS = 1e-6
"""Tokens with at least this mature probability, about 2,000, enter the exact sum. They leave 1.9 of 8 candidates on SmolLM2
and 1.1 of 5 on Gemma 3 (high layers, rows with several plausible tokens)."""

ROUNDING = 1e-5
MASS_ROUNDING = 1e-6
"""Allowances for float32 rounding in the bound: for a divergence, in nats, and for a probability mass."""


def sparse(
    mature: Tensor, candidates: Candidates, *, relative_top: float, divergence: str, strength: float, scores: str, lazy: bool
) -> Tensor:
    """`contrast.contrast` on a CPU, [R, V], row by row and only for rows that need it.

    Args:
        mature: Mature logits [R, V].
        candidates: The premature layers, read for undecided rows only.
        relative_top, divergence, strength, scores: As for `contrast.contrast`.
        lazy: Whether to skip the contrast in rows with a single plausible token.
    """
    found = mature.new_empty(mature.shape, dtype=wide_dtype(mature.dtype))
    how: dict[str, Any] = {"relative_top": relative_top, "strength": strength, "scores": scores}
    log_z = candidates.mature_log_z()
    undecided: dict[int, Row] = {}
    for r, logits in enumerate(mature):
        row = Row(logits, found[r], **how, log_z=None if log_z is None else log_z[r])
        if lazy and row.settled:
            row.settle()
        else:
            undecided[r] = row
    candidates.saved += len(mature) - len(undecided)
    for rows in candidates.blocks(list(undecided)) if undecided else ():
        premature = candidates.logits(rows=rows).to(mature.device)
        of_mature = [undecided[r].log_z for r in rows]
        z, jsd = candidates.compared(mature, of_mature, premature, rows, jsd=divergence == "jsd" and len(premature) > 1)
        for i, r in enumerate(rows):
            known = {"log_z": None if z is None else z[:, i], "jsd": None if jsd is None else jsd[:, i]}
            undecided[r].contrast(premature[:, i], divergence, **known)
    return found


class Row:
    """The mature logits of one position, and its scores, filled in step by step.

    Args:
        mature: Mature logits [V].
        found: Receives the scores [V], float32 or better.
        relative_top, strength, scores: As for `contrast.contrast`.
        log_z: log sum exp of `mature`, if it is known.
    """

    def __init__(
        self, mature: Tensor, found: Tensor, *, relative_top: float, strength: float = 1.0, scores: str = "contrast",
        log_z: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.mature, self.scores, self._strength = mature, found, strength
        self._is_distribution = scores == "distribution"
        found.copy_(mature)
        self.plausible = plausible(found, relative_top).nonzero()[:, 0]
        self.log_z = found.logsumexp(dim=-1) if log_z is None else log_z
        if not self._is_distribution:
            found -= self.log_z + IMPLAUSIBLE  # `floor`, in one pass

    @property
    def settled(self) -> bool:
        """Whether no premature layer can change the choice: a single token is plausible, or the row is the model's own."""
        return len(self.plausible) == 1 or (self._is_distribution and self._strength == 0)

    def settle(self) -> None:
        """Score the plausible token as if the mature layer were contrasted with itself. A distribution is already complete."""
        if not self._is_distribution:
            log_p = self._wide(self.mature[self.plausible]) - self.log_z
            self.scores[self.plausible] = gain(log_p, log_p, self._strength)

    def contrast(self, premature: Tensor, divergence: str, *, log_z: Tensor | None = None, jsd: Tensor | None = None) -> None:
        """Score the plausible tokens against the candidate that diverges most.

        Args:
            premature: Logits [K, V].
            divergence: A key of `contrast.DIVERGENCES`.
            log_z: log sum exp of each candidate [K], if it is known.
            jsd: Jensen-Shannon divergence of each candidate [K], less a constant, if it is known.
        """
        log_z = self._wide(premature).logsumexp(dim=-1) if log_z is None else log_z
        if len(premature) == 1:
            chosen = 0
        elif jsd is not None and divergence == "jsd":
            chosen = int(jsd.argmax())
        else:
            chosen = self._select(premature, log_z, divergence)
        logits = self._wide(self.mature[self.plausible])
        gained = gain(logits - self.log_z, self._wide(premature[chosen, self.plausible]) - log_z[chosen], self._strength)
        if not self._is_distribution:
            self.scores[self.plausible] = gained
        elif self._strength != 0:
            self.scores[self.plausible] = share_out(logits, gained)

    def _select(self, premature: Tensor, log_z: Tensor, divergence: str) -> int:
        contenders = self._contenders(premature, log_z) if divergence == "jsd" else range(len(premature))
        if len(contenders) == 1:
            return contenders[0]
        left = slice(None) if len(contenders) in (0, len(premature)) else list(contenders)
        log_p = self._wide(self.mature) - self.log_z
        log_q = self._wide(premature[left]) - log_z[left, None]
        first = int(DIVERGENCES[divergence](log_p, log_q, WHOLE).argmax())
        return first if isinstance(left, slice) else left[first]

    def _contenders(self, premature: Tensor, log_z: Tensor) -> list[int]:
        """Candidates that may share least with the mature distribution. Empty if a logit is NaN."""
        least = math.log(HEAD_MASS) + (self.log_z if self._is_distribution else -IMPLAUSIBLE)
        head = (self.scores >= least).nonzero()[:, 0]
        log_p = self._wide(self.mature[head]) - self.log_z
        log_q = self._wide(premature[:, head]) - log_z[:, None]
        p, q = log_p.exp(), log_q.exp()
        log_sum = torch.logaddexp(log_p, log_q)
        shared = (p * (log_sum - log_p) + torch.where(q > 0, q * (log_sum - log_q), 0)).sum(dim=-1)
        p_left, q_left = ((1 - mass.sum(dim=-1)).clamp(min=0) + MASS_ROUNDING for mass in (p, q))
        at_most = shared + _entropy(p_left) + _entropy(q_left) - _entropy(p_left + q_left) + ROUNDING
        found: list[int] = (shared <= at_most.min()).nonzero()[:, 0].tolist()
        return found

    def _wide(self, logits: Tensor) -> Tensor:
        return logits.to(self.scores.dtype)


def _entropy(mass: Tensor) -> Tensor:
    """-m ln m, 0 at 0."""
    entropy: Tensor = torch.special.entr(mass)
    return entropy
