"""Traces of models of mlx-lm: MLX makes the logits of each layer, and `reader.py` makes the numbers from them.

residual streams of all layers --MLX, some positions at a time--> logits [N+1, n, V] --reader.py--> numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dola.methods.config import MethodConfig
from dola.methods.layers import candidate_layers
from dola.methods.method import Candidates
from dola.methods.registry import method_of, with_settings
from dola.mlx.parts import Parts, find, named
from dola.mlx.streams import Streams
from dola.text.token_text import token_texts
from dola.tracing.data import LayerTrace, TokenTrace
from dola.tracing.reader import LayerReader
from dola.tracing.trace import as_trace

ELEMENTS = 2**25
"""Logits of all layers that are made at a time, [N+1, n, V]: 128 MiB of float32."""


def trace(
    model: Any,
    tokenizer: Any,
    ids: list[int],
    config: MethodConfig,
    new: Sequence[int] | None,
    *,
    mode: str,
    repetition_penalty: float | None,
    top_k: int,
) -> LayerTrace:
    """As `dola.trace`, for tokens that are there already.

    Args:
        model: A model of mlx-lm without a method attached.
        tokenizer: Its tokenizer, of transformers.
        ids: The prompt's tokens.
        config: The settings of a method.
        new: Tokens that were generated after the prompt, or None to trace the prompt's own.
        mode: Whose tokens these are: see `LayerTrace`.
        repetition_penalty: The penalty that the new tokens were generated with; None for those of the prompt.
        top_k: Number of likeliest tokens of each layer to keep.
    """
    parts = find(model)
    read, first, after = (ids, 0, [*ids[1:], None]) if new is None else ([*ids, *new[:-1]], len(ids) - 1, [*new])

    def traced(config: MethodConfig) -> LayerTrace:
        reader = MLXReader(parts, config, top_k)
        tokens = reader.read(read, first, after)
        return as_trace(
            reader,
            tokens,
            token_texts(tokenizer, set().union(*(token.ids() for token in tokens))),
            prompt=tokenizer.decode(ids),
            prompt_tokens=len(ids),
            mode=mode,
            repetition_penalty=repetition_penalty,
            model=named(model),
        )

    found = traced(config)
    return found if config.lens is None else replace(found, without_lens=traced(with_settings(config, lens=None)))


class MLXReader(LayerReader):
    """Reads the layers of a model of mlx-lm: a `LayerReader` whose "hidden" states are the logits of each layer."""

    def __init__(self, parts: Parts, config: MethodConfig, top_k: int) -> None:
        self._parts, self.config, self.method, self._top_k = parts, config, method_of(config), top_k
        self.num_layers = parts.num_layers
        self.candidates = candidate_layers(config.layers, parts.num_layers, tied=parts.tied)

    def read(self, ids: Sequence[int], first: int, tokens: Sequence[int | None]) -> list[TokenTrace]:
        """See `LayerReader`."""
        found: list[TokenTrace] = []
        size = 1  # of the first group: how many logits a position has is known after it
        with Streams(self._parts, self.config, list(ids)) as streams:
            while (start := first + len(found)) < len(ids):
                positions = range(start, min(start + size, len(ids)))
                logits = {layer: torch.from_numpy(np.array(made)) for layer, made in streams.logits(positions).items()}
                after = [tokens[position - first] for position in positions]
                found += self.read_states(logits, positions, [ids[position] for position in positions], after)
                size = max(1, ELEMENTS // (len(logits) * logits[0].shape[-1]))
        return found

    def _readout(self, hidden: Mapping[int, Tensor], layer: int) -> Tensor:
        return hidden[layer]

    def _one(self, hidden: Mapping[int, Tensor], layers: Sequence[int]) -> Candidates:
        return _Given([torch.stack([hidden[layer][row] for row, layer in enumerate(layers)])])

    def _every(self, hidden: Mapping[int, Tensor], positions: Tensor) -> Candidates:
        found = _Given([hidden[layer] for layer in self.candidates])
        found.layers, found.positions = (*self.candidates, self.num_layers), positions
        return found


class _Given(Candidates):
    """Candidates whose logits are known, [r, V] each."""

    def __init__(self, logits: list[Tensor]) -> None:
        self._logits = logits

    def __len__(self) -> int:
        return len(self._logits)

    def logits(self, k: int | None = None, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        found = torch.stack(self._logits) if k is None else self._logits[k]
        return found if rows is None else found[..., rows, :]

    def combined(self, mature: Tensor, weights: Tensor, rows: Sequence[int] | Tensor | None = None) -> Tensor:
        layers = self.logits(rows=rows)
        return torch.einsum("k,krv->rv", weights[:-1].to(layers), layers) + weights[-1] * mature
