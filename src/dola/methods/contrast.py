"""The idea of DoLa, as pure functions on logits (paper: arXiv 2309.03883, section 2).

The last layer's next-token distribution is the *mature* one, q_N. Reading an earlier layer out through the same head gives
a *premature* one, q_j. Facts emerge in the later layers, so what a token gained between the two is evidence for it:

    M    = argmax_j JSD(q_N, q_j)                          select_premature    (eq. 5)
    V    = {x : q_N(x) >= relative_top * max q_N}          plausible           (eq. 4)
    F(x) = log q_N(x) - log q_M(x)  on V                   gain                (eq. 3)

`mature` is [..., V] and `premature` [K, ..., V], a row for each candidate: logits or log-probabilities. Arithmetic is float32
or better. This is the one definition; `sparse.py` and the kernels are faster forms of it, which tests hold equal to it.
"""

import math

import torch
from torch import Tensor

from dola.methods.divergences import DIVERGENCES
from dola.methods.vocabulary import WHOLE, Vocabulary, wide

IMPLAUSIBLE = 1000.0  # nats. A plausible score is above -30, so the gap is never bridged, and float32 keeps the mature order
LARGEST_SCORE = 1e30  # where q_M(x) is 0: finite, so that a penalty or a temperature cannot make a NaN of it


def contrast(
    mature: Tensor, premature: Tensor, *, relative_top: float = 0.1, divergence: str = "jsd", vocab: Vocabulary = WHOLE
) -> Tensor:
    """Scores of the next token, [..., V]: F on the plausible set, and below it all other tokens in the mature order."""
    chosen = select_premature(mature, premature, divergence=divergence, vocab=vocab)[None, ..., None]
    log_p, log_q = vocab.log_softmax(mature), vocab.log_softmax(premature.gather(0, chosen.expand(1, *mature.shape))[0])
    return torch.where(plausible(mature, relative_top, vocab=vocab), gain(log_p, log_q), floor(log_p))


def select_premature(mature: Tensor, premature: Tensor, *, divergence: str = "jsd", vocab: Vocabulary = WHOLE) -> Tensor:
    """Index into K of the candidate that diverges most from the mature layer, per position: [...]. The first wins a tie."""
    if len(premature) == 1:  # static DoLa
        return torch.zeros(mature.shape[:-1], dtype=torch.long, device=mature.device)
    return DIVERGENCES[divergence](vocab.log_softmax(mature), vocab.log_softmax(premature), vocab).argmax(dim=0)


def plausible(mature: Tensor, relative_top: float = 0.1, *, vocab: Vocabulary = WHOLE) -> Tensor:
    """Which tokens are at least `relative_top` times as probable as the likeliest: bool [..., V], never empty. 0 keeps all."""
    logits = wide(mature)
    return logits >= threshold(vocab.amax(logits), relative_top)[..., None]


def threshold(largest: Tensor, relative_top: float) -> Tensor:
    """The least logit, or log-probability, of a plausible token, given the largest one."""
    return largest + (math.log(relative_top) if relative_top > 0 else -math.inf)


def gain(log_p: Tensor, log_q: Tensor) -> Tensor:
    """F: how much likelier a token has become from the premature layer to the mature one, in nats."""
    return log_p - log_q.clamp(min=-LARGEST_SCORE)


def floor(log_p: Tensor) -> Tensor:
    """The score of an implausible token."""
    return log_p - IMPLAUSIBLE
