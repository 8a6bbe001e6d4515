"""The parts of a model of mlx-lm, found by structure: its blocks, the norms that may follow them, and its head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from dola.errors import ModelError

_LOAD = 'use a causal language model that mlx-lm loads: dola.mlx.load("mlx-community/...")'


@dataclass(frozen=True, eq=False)
class Parts:
    """Where a model keeps what DoLa reads.

    Attributes:
        model: The model that `mlx_lm.load` gave.
        blocks: Its decoder blocks, in their order.
        norms: The norms outside the blocks. The final one is the first that runs after the last block.
        embedding: The input embedding, or None if none was found.
        head: The linear LM head, or None if the embedding is the head (`embed_tokens.as_linear`).
    """

    model: Any
    blocks: list[Any]
    norms: list[Any]
    embedding: Any
    head: Any

    @property
    def num_layers(self) -> int:
        """N, the number of blocks."""
        return len(self.blocks)

    @property
    def readout(self) -> Any:
        """The module whose weights make the logits, or None: the head, or the embedding in its place."""
        return self.embedding if self.head is None else self.head

    @property
    def tied(self) -> bool:
        """Whether the head shares the embedding's weights."""
        return self.head is None


def find(model: Any) -> Parts:
    """Find the parts of a model.

    Raises:
        ModelError: It is not a model of MLX, or has no blocks, or no final norm that is a module.
    """
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise ModelError(f"{name} is not a model of MLX.", hint=_LOAD)
    blocks = _blocks(model)
    if len(blocks) < 2:
        raise ModelError(
            f"{name} has {len(blocks)} layer; DoLa needs at least 2, one to contrast the last with.", hint="use a deeper model"
        )
    outside = list(_outside(model, {id(block) for block in blocks}))
    norms = [part for _, part in outside if "norm" in type(part).__name__.lower()]
    if not norms:
        raise ModelError(
            f"{named(model)} has no final norm after its blocks, so its layers cannot be read out as tokens.",
            hint="use a model of another architecture",
        )
    embedding = next((part for _, part in outside if hasattr(part, "as_linear")), None)
    return Parts(model, blocks, norms, embedding, _head(outside, embedding))


def named(model: Any) -> str:
    """The architecture's name, as mlx-lm's files have it: "llama"."""
    module = type(model).__module__
    return module.rpartition(".")[2] if module.startswith("mlx_lm.models.") else type(model).__name__


def dtype_of(model: Any) -> Any:
    """The dtype that a model computes in: that of its first floating weights, which for quantized ones are the scales."""
    return next(weight.dtype for _, weight in tree_flatten(model.parameters()) if mx.issubdtype(weight.dtype, mx.floating))


def window_of(model: Any) -> int | None:
    """Number of tokens that a model can read, or None if its config states none."""
    args = getattr(model, "args", None)
    text = getattr(args, "text_config", None)
    inner = text.get("max_position_embeddings") if isinstance(text, dict) else None
    found = getattr(args, "max_position_embeddings", None) or inner
    return found if isinstance(found, int) else None


def _blocks(model: Any) -> list[Any]:
    """`model.layers`, which mlx-lm's caches count too."""
    try:
        found = list(model.layers)
    except (AttributeError, TypeError):
        found = []
    if not found or not all(isinstance(block, nn.Module) for block in found):
        raise ModelError(f"{named(model)} has no list of blocks, so it has no layers to contrast.", hint=_LOAD)
    if len({id(block) for block in found}) < len(found):
        raise ModelError(
            f"{named(model)} cannot be contrasted: its blocks run several times in one forward pass.",
            hint="use a model of another architecture",
        )
    return found


def _outside(module: Any, blocks: set[int], name: str = "") -> Iterator[tuple[str, Any]]:
    """All modules that are neither blocks nor in blocks, by name."""
    if id(module) in blocks:
        return
    yield name, module
    for key, value in module.children().items():
        for part in _modules(value):
            yield from _outside(part, blocks, key)


def _modules(value: Any) -> Iterator[Any]:
    if isinstance(value, nn.Module):
        yield value
    elif isinstance(value, dict):
        for each in value.values():
            yield from _modules(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _modules(each)


def _head(outside: list[tuple[str, Any]], embedding: Any) -> Any:
    """The linear layer whose rows are the vocabulary's."""
    vocabulary = None if embedding is None else embedding["weight"].shape[0]
    for name, part in outside:
        linear = isinstance(part, (nn.Linear, nn.QuantizedLinear)) or name == "lm_head"
        if linear and (name == "lm_head" or part["weight"].shape[0] == vocabulary):
            return part
    return None
