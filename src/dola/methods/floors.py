"""Scores of tokens that a method rules out: far below those it can choose, in the order of the mature layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dola.methods.vocabulary import WHOLE, Vocabulary

IMPLAUSIBLE = 1000.0  # nats. Plausible scores are above -30, so the gap always suffices, and float32 keeps the mature order


def margin(share: float) -> float:
    """How far below the largest logit a plausible token may be, in nats, at most 0: its probability has to be at least this
    share of the likeliest token's. -inf for a share of 0."""
    return math.log(share) if share > 0 else -math.inf


def floor(log_p: Tensor) -> Tensor:
    """Score of an implausible token."""
    return log_p - IMPLAUSIBLE


def with_floor(scores: Tensor, support: Tensor, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
    """Scores [..., V] of the tokens in `support`, with all others at least 1,000 nats below the smallest of them.

    Args:
        scores: Scores on any scale, [..., V].
        support: The tokens that can be chosen, bool [..., V], never empty.
        mature: The mature logits [..., V].
        vocab: The vocabulary, or this worker's part of it.
    """
    least = -vocab.amax(torch.where(support, -scores, -torch.inf))
    return torch.where(support, scores, least[..., None] + floor(vocab.log_softmax(mature)))
