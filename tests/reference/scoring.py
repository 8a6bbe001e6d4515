"""Teacher-forced scoring as the paper's code does it (`lm_score` of voidism/DoLa). Shares no code with `dola`.

It judges the scorer of the package: one forward per answer with all hidden states, no batches, no caches, no chunks; positions
are contrasted one by one. Layers are numbered as Hugging Face does: `hidden_states[j]` is the input of block j, and the last
one has passed the final norm already, so it is no candidate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

FLOOR = -1000.0


@dataclass(frozen=True)
class Recipe:
    """How an answer's tokens are scored.

    The defaults are those of the reference's TruthfulQA-MC run; its FACTOR run has relative_top=0.1 and post_softmax=True.

    Attributes:
        layers: Candidate premature layers, in ascending order; None scores with the model itself (vanilla).
        divergence: "reference" (1/2 [KL(A||p) + KL(A||q)] / |V|) or "jsd".
        relative_top: Tokens below this fraction of the likeliest token's probability are implausible; 0 keeps all.
        post_softmax: Whether the contrast is normalized over the vocabulary.
        mask_first: Whether implausible tokens leave the contrast before it is normalized, as the paper has it; the reference
            normalizes over the full vocabulary first. An implausible token scores FLOOR either way.
    """

    layers: tuple[int, ...] | None
    divergence: str = "reference"
    relative_top: float = 0.0
    post_softmax: bool = False
    mask_first: bool = False


@dataclass(frozen=True)
class Scored:
    """Score of each token of an answer in nats, and the premature layer that it was contrasted with."""

    token_scores: tuple[float, ...]
    layers: tuple[int, ...]

    @property
    def total(self) -> float:
        return math.fsum(self.token_scores)


def lm_score(
    model: Any,
    tokenizer: Any,
    context: str,
    continuation: str,
    recipe: Recipe,
    *,
    readout: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Scored:
    """Score a continuation of a context. The context's tokens are those of the context alone; the answer's tokens follow them.

    Args:
        readout: From hidden states [T, H] of a premature layer to logits [T, V]; by default the bare LM head, without the final
            norm, as the reference has it.
        dtype: Of all arithmetic behind the logits.
    """
    ids = tokenizer(context + continuation)["input_ids"]
    return score_ids(model, ids, len(tokenizer(context)["input_ids"]), recipe, readout=readout, dtype=dtype)


@torch.no_grad()
def score_ids(
    model: Any,
    ids: list[int],
    context_tokens: int,
    recipe: Recipe,
    *,
    readout: Callable[[Tensor], Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Scored:
    """The same for tokens: ids[context_tokens:] are scored, each by the logits one position before it."""
    output = model(input_ids=torch.tensor([ids], device=model.device), output_hidden_states=True)
    readout = readout or model.get_output_embeddings()
    mature = output.logits[0].to(dtype)
    premature = {layer: readout(output.hidden_states[layer][0]).to(dtype) for layer in recipe.layers or ()}
    token_scores, chosen = [], []
    for position in range(context_tokens - 1, len(ids) - 1):
        log_p = log_softmax(mature[position])
        if recipe.layers is None:
            token_scores.append(float(log_p[ids[position + 1]]))
            continue
        log_q = {layer: log_softmax(logits[position]) for layer, logits in premature.items()}
        layer = furthest(log_p, log_q, recipe.divergence)
        token_scores.append(float(contrast(log_p, log_q[layer], recipe)[ids[position + 1]]))
        chosen.append(layer)
    return Scored(tuple(token_scores), tuple(chosen))


def furthest(log_p: Tensor, log_q: dict[int, Tensor], divergence: str) -> int:
    """The candidate that diverges most from the mature layer; the first wins a tie."""
    values = {layer: DIVERGENCES[divergence](log_p, log_r) for layer, log_r in log_q.items()}
    return max(values, key=lambda layer: values[layer])


def contrast(log_p: Tensor, log_q: Tensor, recipe: Recipe) -> Tensor:
    """Scores [V] of one position."""
    score = log_p - log_q
    implausible = torch.zeros_like(log_p, dtype=torch.bool)
    if recipe.relative_top > 0:
        implausible = log_p < log_p.max() + math.log(recipe.relative_top)
    if recipe.post_softmax:
        score = log_softmax(score.masked_fill(implausible, -math.inf) if recipe.mask_first else score)
    return score.masked_fill(implausible, FLOOR)


def log_softmax(logits: Tensor) -> Tensor:
    shifted = logits - logits.max()
    return shifted - shifted.exp().sum().log()


def jsd(log_p: Tensor, log_q: Tensor) -> float:
    """1/2 KL(p||A) + 1/2 KL(q||A)."""
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return float((kl(log_p, log_mean) + kl(log_q, log_mean)) / 2)


def reference_divergence(log_p: Tensor, log_q: Tensor) -> float:
    """1/2 [KL(A||p) + KL(A||q)] / |V|: what torch's `kl_div(log p, A)` is, averaged over the vocabulary."""
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return float((kl(log_mean, log_p) + kl(log_mean, log_q)) / 2 / len(log_p))


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a||b), 0 log 0 = 0."""
    terms = log_a.exp() * (log_a - log_b)
    return terms.masked_fill(log_a.exp() == 0, 0).sum()


DIVERGENCES = {"jsd": jsd, "reference": reference_divergence}
