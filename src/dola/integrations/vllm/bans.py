"""Rows that the mature scores decide under the same bans and biases: those that lost their last plausible token to a ban, and
those in which a bias lifts another token so high that plain decoding with the same biases would choose it.

Scores leave no doubt: a plausible one is above -(ln |V| + ln(1/relative_top)), and the others are 1,000 below their mature
log-probability (contrast.IMPLAUSIBLE). No logit bias bridges that: the largest is 100, by which the OpenAI API forces a token.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dola.integrations.vllm.batch import Request
from dola.methods.contrast import IMPLAUSIBLE, plausible

HARD_BIAS = -100.0
"""A bias of this much bans a token: it is how the OpenAI API says so."""


def decided_by_mature(
    scores: Tensor, mature: Tensor, requests: Sequence[Request], *, processed: Tensor | None = None
) -> Tensor:
    """Scores [R, V] after all bans, and in the rows that the mature scores decide what these make of them.

    Args:
        scores: The contrast, with bans (-inf) and biases on it.
        mature: The model's own logits of these rows.
        requests: Whose rows they are.
        processed: The mature logits with biases and penalties on them, where somebody has put these on.
    """
    bias = torch.zeros_like(scores)
    for row, request in enumerate(requests):
        if request.bias:
            tokens = torch.tensor(list(request.bias), device=scores.device)
            bias[row, tokens] = torch.tensor(list(request.bias.values()), device=scores.device, dtype=bias.dtype)
    # Without a threshold every token is plausible, and nothing short of -inf is lost.
    limits = [-IMPLAUSIBLE / 2 if request.config.relative_top > 0 else -torch.inf for request in requests]
    allowed = scores.masked_fill(bias <= HARD_BIAS, -torch.inf)
    lost = allowed.amax(dim=-1) <= torch.tensor(limits, device=scores.device)
    biased = (mature + bias).masked_fill(scores.isneginf(), -torch.inf)
    for row, request in enumerate(requests):
        if any(value > 0 for value in request.bias.values()):
            lost[row] |= ~plausible(mature[row], request.config.relative_top)[biased[row].argmax()]
    under_same = biased if processed is None else processed.masked_fill(scores.isneginf(), -torch.inf)
    return torch.where(lost[:, None], under_same, scores)
