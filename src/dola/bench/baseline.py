"""The earlier cost of DoLa: the decoding loop of transformers 4.55.4, rebuilt from a description of what it does.

It deliberately stays as slow as the original, because speedups are measured against it. At each step it
- makes the model return the hidden states of all layers and positions, but reads one position of some layers;
- multiplies each candidate layer by the LM head separately, without the final norm, in the model's dtype;
- sorts the whole vocabulary to find the plausible set, although it needs only the maximum;
- chooses one premature layer for the whole batch, by a divergence that is averaged over its rows.
`DoLaConfig.reference` decodes the same tokens in float32 at batch size 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import kl_div
from transformers import DynamicCache, RepetitionPenaltyLogitsProcessor

from dola.model.hidden import cache_name

RELATIVE_TOP = 0.1
IMPLAUSIBLE_PREMATURE = -1e-3


@torch.no_grad()
def decode_as_before(
    model: Any,
    input_ids: Tensor,
    layers: Sequence[int],
    *,
    max_new_tokens: int,
    repetition_penalty: float = 1.0,
    after_step: Callable[[Tensor], object] | None = None,
) -> Tensor:
    """Decode greedily with DoLa as transformers 4.55.4 did, with a key-value cache. No token ends the generation.

    Args:
        model: A causal LM without anything attached.
        input_ids: Prompts of equal length, [B, T]: padding is not handled.
        layers: Candidate premature layers, in Hugging Face's numbering.
        max_new_tokens: Number of tokens to decode.
        repetition_penalty: Repetition penalty, as in `generate`.
        after_step: Called after each step with all tokens so far, [B, T + n].

    Returns:
        Prompts and new tokens, [B, T + max_new_tokens].
    """
    head = model.get_output_embeddings()
    penalty = RepetitionPenaltyLogitsProcessor(repetition_penalty) if repetition_penalty != 1.0 else None
    cache, fed = DynamicCache(config=model.config), input_ids
    cached = {cache_name(model): cache}
    for _ in range(max_new_tokens):
        mask = torch.ones_like(input_ids)
        output = model(fed, attention_mask=mask, **cached, output_hidden_states=True, logits_to_keep=1)
        mature = output.logits[:, -1].float()
        premature = [head(output.hidden_states[layer][:, -1]) for layer in layers]
        scores = contrast_as_before(mature, premature)
        if penalty is not None:
            scores = penalty(input_ids, scores)
        fed = scores.argmax(dim=-1, keepdim=True)
        input_ids = torch.cat([input_ids, fed], dim=-1)
        if after_step is not None:
            after_step(input_ids)
    return input_ids


def contrast_as_before(mature: Tensor, premature: Sequence[Tensor]) -> Tensor:
    """Scores [B, V] from mature logits [B, V] in float32 and the K candidates' logits [B, V] in the model's dtype."""
    chosen = premature[0]
    if len(premature) > 1:
        stacked = torch.stack(list(premature))
        mean = 0.5 * (mature.softmax(dim=-1) + stacked.softmax(dim=-1))
        from_mature = kl_div(mature.log_softmax(dim=-1)[None], mean, reduction="none").mean(dim=-1)
        from_premature = kl_div(stacked.log_softmax(dim=-1), mean, reduction="none").mean(dim=-1)
        divergence = 0.5 * (from_mature + from_premature)  # [K, B]
        chosen = premature[int(divergence.mean(dim=-1).argmax())]
    log_p, log_q = mature.log_softmax(dim=-1), chosen.log_softmax(dim=-1)
    likeliest = log_p.sort(dim=-1, descending=True).values[:, :1]
    implausible = log_p < likeliest + math.log(RELATIVE_TOP)
    return log_p.masked_fill(implausible, -torch.inf) - log_q.masked_fill(implausible, IMPLAUSIBLE_PREMATURE)
