"""The idea of DoLa, as pure functions on logits (paper: arXiv 2309.03883, section 2).

The last layer's next-token distribution is the *mature* one, q_N. Reading an earlier layer out through the same head gives
a *premature* one, q_j. Facts emerge in the later layers, so what a token gained between the two is evidence for it:

    M    = argmax_j JSD(q_N, q_j)                          select_premature    (eq. 5)
    V    = {x : q_N(x) >= relative_top * max q_N}          plausible           (eq. 4)
    F(x) = log q_N(x) - log q_M(x)  on V                   contrast            (eq. 3)

Shapes: `mature` is [..., V], `premature` is [K, ..., V] with one row per candidate layer. Arguments are logits or
log-probabilities alike (log_softmax leaves log-probabilities as they are), of any dtype: all arithmetic is float32, or
float64 where the input is. Divergences are in nats.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

IMPLAUSIBLE = 1000.0
"""Implausible tokens score their mature log-probability minus this. A plausible score cannot fall below
-(ln |V| + ln(1/relative_top)), about -30, so the gap is never bridged, and float32 still tells implausible tokens apart."""

LARGEST_SCORE = 1e30
"""Bound of F where q_M(x) is zero: finite, so that a penalty or a temperature applied to it later cannot make a NaN."""


@dataclass(frozen=True)
class Shard:
    """One part of a vocabulary that several workers share out. All of them call the same functions, each with its own columns.

    What crosses between them are a few numbers per distribution, never the distributions. Columns without a token are -inf.

    Attributes:
        gather: What every worker has of a value: from [...] to [workers, ...], the same on all of them.
    """

    gather: Callable[[Tensor], Tensor]

    def sum(self, part: Tensor) -> Tensor:
        """Over the workers, [...]."""
        return self.gather(part).sum(dim=0)

    def log_sum_exp(self, logits: Tensor) -> Tensor:
        """log sum exp over the whole vocabulary, from [..., V of this worker] to [...]."""
        return self.gather(logits.logsumexp(dim=-1)).logsumexp(dim=0)

    def amax(self, values: Tensor) -> Tensor:
        """The largest over the whole vocabulary, from [..., V of this worker] to [...]."""
        return self.gather(values.amax(dim=-1)).amax(dim=0)


def js_divergence(mature: Tensor, premature: Tensor) -> Tensor:
    """Jensen-Shannon divergence, 1/2 KL(p||A) + 1/2 KL(q||A) with A = (p+q)/2: [K, ...] in [0, ln 2] nats, symmetric."""
    return (math.log(2) + _jsd_less_ln2(log_probs(mature), log_probs(premature))).clamp(min=0)  # rounding can leave -1e-9


def reference_divergence(mature: Tensor, premature: Tensor) -> Tensor:
    """What transformers 4 and voidism/DoLa compute instead: 1/2 [KL(A||p) + KL(A||q)] / |V|, shape [K, ...], unbounded.

    torch's `kl_div(log p, A)` is KL(A||p), not KL(p||A), and they take its mean over the vocabulary. Kept for parity.
    """
    return _reference_divergence(log_probs(mature), log_probs(premature))


def select_premature(mature: Tensor, premature: Tensor, *, divergence: str = "jsd") -> Tensor:
    """Index into K of the candidate that diverges most from the mature layer, per position: [...]. The first wins a tie."""
    return DIVERGENCES[divergence](log_probs(mature), log_probs(premature)).argmax(dim=0)


def plausible(mature: Tensor, relative_top: float = 0.1, *, shard: Shard | None = None) -> Tensor:
    """Which tokens are at least `relative_top` times as probable as the likeliest: bool [..., V], never empty (with
    a shard: over all workers). 0 keeps all."""
    return _plausible(log_probs(mature, shard), relative_top, shard)


def contrast(
    mature: Tensor, premature: Tensor, *, relative_top: float = 0.1, divergence: str = "jsd", shard: Shard | None = None
) -> Tensor:
    """Scores of the next token, [..., V]: F on the plausible set, and below it all other tokens in the mature order."""
    log_p, log_q = log_probs(mature, shard), log_probs(premature, shard)
    if len(log_q) == 1:  # static DoLa: nothing to select
        log_q = log_q[0]
    else:
        chosen = _order(divergence, log_p, log_q, shard).argmax(dim=0)
        log_q = log_q.gather(0, chosen[None, ..., None].expand(1, *log_p.shape))[0]
    score = log_p - log_q.clamp(min=-LARGEST_SCORE)
    return torch.where(_plausible(log_p, relative_top, shard), score, log_p - IMPLAUSIBLE)


def log_probs(logits: Tensor, shard: Shard | None = None) -> Tensor:
    """log_softmax over the vocabulary, in float32 or better."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    if shard is None:
        return logits.log_softmax(dim=-1, dtype=dtype)
    wide = logits.to(dtype)
    return wide - shard.log_sum_exp(wide)[..., None]


def _plausible(log_p: Tensor, relative_top: float, shard: Shard | None) -> Tensor:
    largest = log_p.amax(dim=-1) if shard is None else shard.amax(log_p)
    return log_p >= largest[..., None] + (math.log(relative_top) if relative_top > 0 else -math.inf)


def _order(divergence: str, log_p: Tensor, log_q: Tensor, shard: Shard | None) -> Tensor:
    """What orders the candidates, [K, ...]."""
    found = DIVERGENCES[divergence](log_p, log_q)
    if shard is None:
        return found
    return shard.sum(found * log_p.shape[-1] if divergence == "reference" else found)  # that one is a mean over the columns


def _jsd_less_ln2(log_p: Tensor, log_q: Tensor) -> Tensor:
    """JSD - ln 2 = -1/2 sum_x [p ln((p+q)/p) + q ln((p+q)/q)]: what p and q share, negated, in [-ln 2, 0] nats.

    Far layers share next to nothing with the mature one: their JSD is ln 2 to the last digit of float32. This tells them apart.
    """
    log_sum = torch.logaddexp(log_p, log_q)
    return 0.5 * (_weighted_gap(log_p, log_sum) + _weighted_gap(log_q, log_sum))


def _reference_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    mean = 0.5 * (log_p.exp() + log_q.exp())

    def kl_from_mean(log_r: Tensor) -> Tensor:
        terms = torch.nn.functional.kl_div(log_r, mean, reduction="none")
        return torch.where(mean > 0, terms, 0).mean(dim=-1)  # where no distribution has mass, 0 * -inf is NaN

    return 0.5 * (kl_from_mean(log_p) + kl_from_mean(log_q))


def _weighted_gap(log_p: Tensor, log_q: Tensor) -> Tensor:
    """sum_x p (log p - log q), with 0 log 0 = 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0).sum(dim=-1)


DIVERGENCES = {"jsd": _jsd_less_ln2, "reference": _reference_divergence}
"""What orders candidates, from log-probabilities mature [..., V] and premature [K, ..., V]: [K, ...], the largest is chosen."""
