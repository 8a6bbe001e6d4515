"""Rows of a batch that the mature scores decide (methods/bans.py), given the bans and biases of vLLM's requests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dola.methods.bans import forced, lost
from dola.methods.registry import method_of
from dola.serving.rows import Request

HARD_BIAS = -100.0
"""A bias of this size bans a token, as in the OpenAI API."""


def decided_by_mature(
    scores: Tensor, mature: Tensor, requests: Sequence[Request], *, processed: Tensor | None = None
) -> Tensor:
    """Scores [R, V] after all bans; rows that the mature scores decide get those instead.

    Args:
        scores: The contrast, with bans (-inf) and biases on it.
        mature: The model's own logits of these rows.
        requests: The requests of these rows.
        processed: The mature logits with biases and penalties, if these have been applied.
    """
    bias = torch.zeros_like(scores)
    for row, request in enumerate(requests):
        if request.bias:
            tokens = torch.tensor(list(request.bias), device=scores.device)
            bias[row, tokens] = torch.tensor(list(request.bias.values()), device=scores.device, dtype=bias.dtype)
    support = _support(mature, requests)
    decided = lost(scores.masked_fill(bias <= HARD_BIAS, -torch.inf), support)
    biased = (mature + bias).masked_fill(scores.isneginf(), -torch.inf)
    lifted = [any(value > 0 for value in request.bias.values()) for request in requests]
    if any(lifted):
        decided |= torch.tensor(lifted, device=scores.device) & forced(biased, support)
    under_same = biased if processed is None else processed.masked_fill(scores.isneginf(), -torch.inf)
    return torch.where(decided[:, None], under_same, scores)


def _support(mature: Tensor, requests: Sequence[Request]) -> Tensor:
    """The plausible tokens of each row, bool [R, V], by the settings of its request."""
    support = torch.empty_like(mature, dtype=torch.bool)
    for config in {request.config for request in requests}:
        rows = torch.tensor([row for row, request in enumerate(requests) if request.config == config], device=mature.device)
        support[rows] = method_of(config).support(mature[rows])
    return support
