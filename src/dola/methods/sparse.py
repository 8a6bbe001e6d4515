"""The contrast on a CPU, computed for plausible tokens only. The scores equal those of `contrast.contrast`.

Few tokens are plausible (3 of 49,152 on average), so computing F is cheap: all rows at once. The cost is in choosing the
premature layer. Compiled kernels compare all candidates of all rows. Without them, candidates are ruled out first. The
divergence is a sum over the vocabulary of what the mature distribution p and a candidate q share:

    JSD(p, q) = ln 2 - 1/2 sum_x f(p_x, q_x),    f(a, b) = (a+b) ln(a+b) - a ln a - b ln b >= 0

f is concave and homogeneous, so its sum over any set of tokens is at most f(sum of p, sum of q): where p has little mass left,
a candidate cannot share much. The exact sum over tokens with p >= HEAD_MASS plus this bound for all others rule out most
candidates. Only the remaining ones are compared over the whole vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dola import native
from dola.methods.contrast import gain
from dola.methods.distribution import share_out
from dola.methods.divergences import DIVERGENCES
from dola.methods.floors import IMPLAUSIBLE, margin
from dola.methods.method import Candidates
from dola.methods.vocabulary import WHOLE, wide

HEAD_MASS = 1e-6
"""Tokens with at least this mature probability, about 2,000, enter the exact sum. They leave 1.9 of 8 candidates on SmolLM2
and 1.1 of 5 on Gemma 3 (high layers, rows with several plausible tokens)."""

ROUNDING = 1e-5
MASS_ROUNDING = 1e-6
"""Allowances for float32 rounding in the bound: for a divergence, in nats, and for a probability mass."""


def sparse(
    mature: Tensor, candidates: Candidates, *, relative_top: float, divergence: str, strength: float, scores: str, lazy: bool
) -> Tensor:
    """`contrast.contrast` on a CPU, [R, V], with candidates read only for rows that need them.

    Args:
        mature: Mature logits [R, V].
        candidates: The premature layers, read for undecided rows only.
        relative_top, divergence, strength, scores: As for `contrast.contrast`.
        lazy: Whether to skip the contrast in rows with a single plausible token.
    """
    is_distribution = scores == "distribution"
    below = None if is_distribution else IMPLAUSIBLE
    opened = native.open_rows(mature, margin=margin(relative_top), below=below, log_z=candidates.mature_log_z())
    found, places = opened.scores, (opened.rows, opened.tokens)
    log_p = mature[places].to(found.dtype) - opened.log_z[opened.rows]
    is_open = opened.counts != 1 if lazy else torch.ones_like(opened.counts, dtype=torch.bool)
    if lazy and is_distribution and strength == 0:
        is_open = torch.zeros_like(is_open)  # the rows are the model's own
    gained = gain(log_p, log_p, strength)  # settled rows: as if the mature layer were contrasted with itself
    rows = is_open.nonzero()[:, 0]
    candidates.saved += len(mature) - len(rows)
    if len(rows):
        here, of_rows = opened.within(is_open)
        log_q = _log_q(mature, opened.log_z, candidates, rows, divergence, of_rows, opened.tokens[here])
        gained[here] = gain(log_p[here], log_q.to(log_p.dtype), strength)
    if not is_distribution:
        found[places] = gained
    elif strength != 0:
        begin = 0
        for row, count in zip(range(len(mature)), opened.counts.tolist(), strict=True):
            inside, begin = slice(begin, begin + count), begin + count
            if count != 1:
                tokens = opened.tokens[inside]
                found[row, tokens] = share_out(found[row, tokens], gained[inside])
    return found


def _log_q(
    mature: Tensor, log_z: Tensor, candidates: Candidates, rows: Tensor, divergence: str, of_rows: Tensor, tokens: Tensor
) -> Tensor:
    """Log-probabilities, in the layers that diverge most, of the given tokens in `rows`: [n].

    Args:
        mature, log_z: Mature logits [R, V], and their log sum exp [R].
        candidates: The premature layers.
        rows: The rows to read.
        divergence: A key of DIVERGENCES.
        of_rows, tokens: For each token its row, as an index of `rows`, and its id, [n].
    """
    several = len(candidates) > 1
    read = candidates.read(mature, log_z, rows, jsd=several and divergence == "jsd")
    z = read.log_z
    if z is None:
        z = torch.stack([native.log_z(layer[read.places]) for layer in read.logits])  # a layer at a time: float32 is large
    if not several:
        chosen = torch.zeros_like(rows)
    elif read.jsd is not None:
        chosen = read.jsd.argmax(dim=0)
    else:
        each = zip(rows.tolist(), read.places.tolist(), z.unbind(dim=1), strict=True)
        chosen = torch.tensor(
            [select(mature[r], log_z[r], read.logits[:, place], of_row, divergence) for r, place, of_row in each]
        )
    layers = chosen[of_rows]
    return wide(read.logits[layers, read.places[of_rows], tokens]) - z[layers, of_rows]


def select(mature: Tensor, log_z: Tensor, premature: Tensor, log_z_premature: Tensor, divergence: str) -> int:
    """The candidate that diverges most in one row, from logits [V] and [K, V] and their log sum exp [] and [K]."""
    log_p = wide(mature) - log_z
    kept = contenders(log_p, premature, log_z_premature) if divergence == "jsd" else []
    if len(kept) == 1:
        return kept[0]
    left = kept if 0 < len(kept) < len(premature) else list(range(len(premature)))
    whole = len(left) == len(premature)
    log_q = wide(premature if whole else premature[left]) - (log_z_premature if whole else log_z_premature[left])[:, None]
    return left[int(DIVERGENCES[divergence](log_p, log_q, WHOLE).argmax())]


def contenders(log_p: Tensor, premature: Tensor, log_z: Tensor) -> list[int]:
    """Candidates that may share least with the mature distribution. Empty if a logit is NaN.

    Args:
        log_p: Log-probabilities of the mature layer [V].
        premature: Logits of the candidates [K, V].
        log_z: Their log sum exp [K].
    """
    head = (log_p >= math.log(HEAD_MASS)).nonzero()[:, 0]
    log_p, log_q = log_p[head], wide(premature[:, head]) - log_z[:, None]
    p, q = log_p.exp(), log_q.exp()
    log_sum = torch.logaddexp(log_p, log_q)
    shared = (p * (log_sum - log_p) + torch.where(q > 0, q * (log_sum - log_q), 0)).sum(dim=-1)
    p_left, q_left = ((1 - mass.sum(dim=-1)).clamp(min=0) + MASS_ROUNDING for mass in (p, q))
    at_most = shared + _entropy(p_left) + _entropy(q_left) - _entropy(p_left + q_left) + ROUNDING
    found: list[int] = (shared <= at_most.min()).nonzero()[:, 0].tolist()
    return found


def _entropy(mass: Tensor) -> Tensor:
    """-m ln m, 0 at 0."""
    entropy: Tensor = torch.special.entr(mass)
    return entropy
