"""Rows that lost their last plausible token to a ban: decided by the mature scores under the same bans.

Scores leave no doubt: a plausible one is above -(ln |V| + ln(1/relative_top)), and the others are 1,000 below their mature
log-probability (contrast.IMPLAUSIBLE). No logit bias bridges that: it is within 100.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dola.contrast import IMPLAUSIBLE
from dola.integrations.vllm.batch import Request

HARD_BIAS = -100.0
"""A bias of this much bans a token: it is how the OpenAI API says so."""


def decided_by_mature(scores: Tensor, mature: Tensor, requests: Sequence[Request], *, processed: bool = False) -> Tensor:
    """Scores [R, V] behind all bans, and in place of rows that lost their plausible set what the mature scores make of it.

    Args:
        scores: The contrast, with bans (-inf) and biases on it.
        mature: The model's own logits of these rows.
        requests: Whose rows they are.
        processed: Whether biases are on `mature` already.
    """
    bias = torch.zeros_like(scores) if any(request.bias for request in requests) else None
    for row, request in enumerate(requests):
        if bias is not None and request.bias:
            tokens = torch.tensor(list(request.bias), device=scores.device)
            bias[row, tokens] = torch.tensor(list(request.bias.values()), device=scores.device, dtype=bias.dtype)
    # Without a threshold every token is plausible, and nothing short of -inf is lost.
    limits = [-IMPLAUSIBLE / 2 if request.config.relative_top > 0 else -torch.inf for request in requests]
    standing = scores if bias is None else scores.masked_fill(bias <= HARD_BIAS, -torch.inf)
    lost = standing.amax(dim=-1) <= torch.tensor(limits, device=scores.device)
    under_same = (mature if bias is None or processed else mature + bias).masked_fill(scores.isneginf(), -torch.inf)
    return torch.where(lost[:, None], under_same, scores)
