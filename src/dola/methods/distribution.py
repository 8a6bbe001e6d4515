"""The contrast as a distribution comparable with the model's own (after Gera et al. 2023, auto-contrastive decoding).

Inside the plausible set V the proportions are softmax(F), and V keeps the mass that the model gives it; outside V nothing
changes. So the distribution sums to 1, has no floor, and its log-likelihoods are comparable with the model's own. It is
returned as logits on the model's scale:

    outside V    z(x)                                                  the model's own logit
    inside V     log softmax_V(F)(x) + log sum_{y in V} exp z(y)

On that scale a repetition penalty has the same effect as on the model's own logits. A row with one plausible token is the
model's own row.
"""

import torch
from torch import Tensor

from dola.methods.vocabulary import WHOLE, Vocabulary, wide


def distribution(mature: Tensor, gained: Tensor, inside: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
    """Logits [..., V] of the distribution, from the mature logits, F and the plausible set, [..., V] each."""
    logits, gained = (values.masked_fill(~inside, -torch.inf) for values in (wide(mature), gained))
    return torch.where(inside, share_out(logits, gained, vocab), wide(mature))


def share_out(logits: Tensor, gained: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
    """Plausible tokens' logits with the model's total mass and the proportions of softmax(F). Others are -inf in both."""
    return vocab.log_softmax(gained) + vocab.logsumexp(logits)[..., None]
