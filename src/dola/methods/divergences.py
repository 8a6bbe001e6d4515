"""Divergences between a premature distribution and the mature one. The layer with the largest divergence is contrasted.

A divergence takes log-probabilities, mature [..., V] and premature [K, ..., V], and returns [K, ...]. To add one, write its
function here and its name into `names.DIVERGENCES`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dola.methods import names
from dola.methods.vocabulary import WHOLE, Vocabulary


def js_divergence(mature: Tensor, premature: Tensor) -> Tensor:
    """Jensen-Shannon divergence, 1/2 KL(p||A) + 1/2 KL(q||A) with A = (p+q)/2: [K, ...] in [0, ln 2] nats, symmetric.

    Takes logits or log-probabilities, mature [..., V] and premature [K, ..., V].
    """
    less_ln2 = jsd(WHOLE.log_softmax(mature), WHOLE.log_softmax(premature))
    return (math.log(2) + less_ln2).clamp(min=0)  # rounding can leave -1e-9


def reference_divergence(mature: Tensor, premature: Tensor) -> Tensor:
    """What transformers 4 and voidism/DoLa compute instead: 1/2 [KL(A||p) + KL(A||q)] / |V|, shape [K, ...], unbounded.

    torch's `kl_div(log p, A)` is KL(A||p), not KL(p||A), and they take its mean over the vocabulary. Kept for parity. Takes
    logits or log-probabilities.
    """
    return reference(WHOLE.log_softmax(mature), WHOLE.log_softmax(premature))


def jsd(log_p: Tensor, log_q: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
    """JSD - ln 2 = -1/2 sum_x [p ln((p+q)/p) + q ln((p+q)/q)]: what p and q share, negated, in [-ln 2, 0] nats.

    Early layers share almost nothing with the mature one: in float32 their JSD rounds to ln 2. This form tells them apart.
    """
    log_sum = torch.logaddexp(log_p, log_q)
    return 0.5 * vocab.sum(_weighted_gap(log_p, log_sum) + _weighted_gap(log_q, log_sum))


def reference(log_p: Tensor, log_q: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
    """1/2 [KL(A||p) + KL(A||q)] / |V| with A = (p+q)/2, [K, ...]."""
    middle = 0.5 * (log_p.exp() + log_q.exp())

    def kl(log_r: Tensor) -> Tensor:
        terms = torch.nn.functional.kl_div(log_r, middle, reduction="none")
        return torch.where(middle == 0, 0, terms)  # where no distribution has mass, 0 * -inf is NaN

    return 0.5 * (vocab.mean(kl(log_p)) + vocab.mean(kl(log_q)))


def _weighted_gap(log_p: Tensor, log_q: Tensor) -> Tensor:
    """p (log p - log q) for each token, with 0 log 0 = 0."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0)


DIVERGENCES: dict[str, Callable[[Tensor, Tensor, Vocabulary], Tensor]] = {name: globals()[name] for name in names.DIVERGENCES}
"""Divergences by name."""
