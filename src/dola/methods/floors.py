"""Scores of tokens that a method rules out: far below all that it can choose, in the order of the mature layer."""

from __future__ import annotations

import torch
from torch import Tensor

from dola.methods.vocabulary import WHOLE, Vocabulary

IMPLAUSIBLE = 1000.0  # nats. A plausible score is above -30, so the gap is never bridged, and float32 keeps the mature order


def floor(log_p: Tensor) -> Tensor:
    """The score of an implausible token."""
    return log_p - IMPLAUSIBLE


def with_floor(scores: Tensor, support: Tensor, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
    """Scores [..., V] of the tokens in `support`; all others lie 1,000 nats and more below the least of them.

    Args:
        scores: On any scale, [..., V].
        support: The tokens that can be chosen, bool [..., V], never empty.
        mature: The mature logits [..., V].
        vocab: The vocabulary, or this worker's part of it.
    """
    least = -vocab.amax(torch.where(support, -scores, -torch.inf))
    return torch.where(support, scores, least[..., None] + floor(vocab.log_softmax(mature)))
