"""Prompts to tokens with mlx-lm's own loops, with the rules that transformers gives the options of a call.

mlx-lm's penalty looks at the last 20 tokens, and its samplers cut the distribution before the temperature. Here the penalty
looks at the whole text, and the temperature comes first, so that an option means the same with both backends.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator, generate_step, generation_stream, wired_limit
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import apply_top_p, categorical_sampling, greedy_sampler, make_repetition_penalty

from dola.mlx.formulas import log_softmax

WHOLE_TEXT = 2**31 - 1
"""More tokens than any text has: MLX slices with 32 bits."""

Processors = list[Callable[[Any, mx.array], mx.array]]


def penalty(value: float) -> Processors:
    """mlx-lm's repetition penalty over the whole text; 1 is none."""
    return [] if value == 1 else [make_repetition_penalty(value, WHOLE_TEXT)]


def sampler(temperature: float, top_p: float) -> Callable[[mx.array], mx.array]:
    """Draws tokens: the temperature first, then the likeliest tokens that sum to `top_p`."""

    def draw(logprobs: mx.array) -> mx.array:
        tempered = log_softmax(logprobs * (1 / temperature))
        return categorical_sampling(apply_top_p(tempered, top_p) if top_p < 1 else tempered, 1.0)

    return draw


def complete(
    model: Any,
    rows: Sequence[list[int]],
    *,
    max_tokens: int,
    ends: Collection[int],
    sampler: Callable[[mx.array], mx.array] | None = None,
    processors: Processors | None = None,
    on_token: Callable[[int], None] | None = None,
) -> list[list[int]]:
    """The new tokens of each row, up to and including the one that ended it.

    Args:
        model: A model of mlx-lm, with a method attached or without.
        rows: The tokens of each prompt.
        max_tokens: Maximum number of new tokens of a row.
        ends: Tokens that end a text.
        sampler: Chooses tokens from log-probabilities; the likeliest by default.
        processors: mlx-lm's logits processors; they get the method's scores.
        on_token: Called with each new token of the only row.
    """
    how: dict[str, Any] = {"sampler": sampler or greedy_sampler, "logits_processors": processors or []}
    if len(rows) > 1 and can_batch(model):
        return _together(model, rows, max_tokens, ends, how)
    return [list(_alone(model, row, max_tokens, ends, how, on_token)) for row in rows]


def can_batch(model: Any) -> bool:
    """Whether mlx-lm can decode several prompts of this model at once."""
    return all(hasattr(each, "merge") for each in make_prompt_cache(model))


def _alone(
    model: Any, row: list[int], max_tokens: int, ends: Collection[int], how: dict[str, Any], on_token: Any
) -> Iterator[int]:
    with wired_limit(model, [generation_stream]):
        for token, _ in generate_step(mx.array(row), model, max_tokens=max_tokens, **how):
            if on_token is not None:
                on_token(int(token))
            yield int(token)
            if token in ends:
                return


def _together(
    model: Any, rows: Sequence[list[int]], max_tokens: int, ends: Collection[int], how: dict[str, Any]
) -> list[list[int]]:
    batch = BatchGenerator(model, stop_tokens=[[end] for end in ends], **how)
    ids = batch.insert([list(row) for row in rows], [max_tokens] * len(rows))
    made: dict[int, list[int]] = {uid: [] for uid in ids}
    try:
        while responses := batch.next_generated():
            for each in responses:
                made[each.uid].append(int(each.token))
    finally:
        batch.close()
    return [made[uid] for uid in ids]
