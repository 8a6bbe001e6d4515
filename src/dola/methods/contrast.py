"""The formulas of DoLa, as pure functions on logits (paper: arXiv 2309.03883, section 2).

The last layer's next-token distribution is the *mature* one, p. Reading an earlier layer out through the same head gives a
*premature* one, q. Facts emerge in the later layers, so a token that gains probability between the two is favored:

    M    = argmax_j JSD(p, q_j)                            select_premature    (eq. 5)
    V    = {x : p(x) >= relative_top * max p}              plausible           (eq. 4)
    F(x) = log p(x) - strength * log q_M(x)  on V          gain                (eq. 3, whose strength is 1)

`mature` is [..., V] and `premature` [K, ..., V], one row per candidate: logits or log-probabilities. Arithmetic is float32
or better. This is the definition; `sparse.py`, `folds.py` and the kernels are faster forms, and tests compare them with it.
"""

import torch
from torch import Tensor

from dola.methods.distribution import distribution
from dola.methods.divergences import DIVERGENCES
from dola.methods.floors import floor, margin
from dola.methods.vocabulary import WHOLE, Vocabulary, wide

LARGEST_SCORE = 1e30  # where q_M(x) is 0: finite, so that a penalty or a temperature cannot turn it into NaN


def contrast(mature: Tensor, premature: Tensor, *, relative_top: float = 0.1, divergence: str = "jsd", strength: float = 1.0,
             scores: str = "contrast", vocab: Vocabulary = WHOLE) -> Tensor:  # fmt: skip
    """Next-token scores [..., V]: F on V, all other tokens below it in the mature order; or the form in distribution.py."""
    chosen = select_premature(mature, premature, divergence=divergence, vocab=vocab)[None, ..., None]
    log_p, log_q = vocab.log_softmax(mature), vocab.log_softmax(premature.gather(0, chosen.expand(1, *mature.shape))[0])
    inside, gained = plausible(mature, relative_top, vocab=vocab), gain(log_p, log_q, strength)
    if scores == "distribution":
        return wide(mature) if strength == 0 else distribution(mature, gained, inside, vocab)  # 0: no rounding at all
    return torch.where(inside, gained, floor(log_p))


def select_premature(mature: Tensor, premature: Tensor, *, divergence: str = "jsd", vocab: Vocabulary = WHOLE) -> Tensor:
    """Index into K of the candidate that diverges most from the mature layer, per position: [...]. The first wins a tie."""
    if len(premature) == 1:  # static DoLa
        return torch.zeros(mature.shape[:-1], dtype=torch.long, device=mature.device)
    return DIVERGENCES[divergence](vocab.log_softmax(mature), vocab.log_softmax(premature), vocab).argmax(dim=0)


def plausible(mature: Tensor, relative_top: float = 0.1, *, vocab: Vocabulary = WHOLE) -> Tensor:
    """Which tokens are at least `relative_top` times as probable as the likeliest: bool [..., V], never empty. 0 keeps all."""
    return mature >= threshold(wide(vocab.amax(mature)), relative_top)[..., None]


def threshold(largest: Tensor, relative_top: float) -> Tensor:
    """The least logit, or log-probability, of a plausible token, given the largest one."""
    return largest + margin(relative_top)


def gain(log_p: Tensor, log_q: Tensor, strength: float = 1.0) -> Tensor:
    """F: a token's gain in log-probability from the premature layer to the mature one, in nats. At most LARGEST_SCORE."""
    strength = min(strength, LARGEST_SCORE)
    return log_p - strength * log_q.clamp(min=-LARGEST_SCORE / max(strength, 1.0))
