"""Tiny random models of mlx-lm's files, and the same models with their first blocks alone."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import mlx.core as mx
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache
from mlx_sizes import FIELDS, OWN


def tiny(name: str) -> Any:
    """A model of one file, with every weight drawn. Raises what the file raises for these fields."""
    mx.random.seed(7)
    module = importlib.import_module(f"mlx_lm.models.{name}")
    given = {**deepcopy(FIELDS), "model_type": name, **deepcopy(OWN.get(name, {}))}
    given["text_config"] = {**deepcopy(given), **given.get("text_config", {})}  # of files for images and text
    model = module.Model(module.ModelArgs.from_dict(given))
    model.update(tree_map(_drawn, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model


def _drawn(weight: Any) -> Any:
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    scale = 0.3 if weight.ndim < 2 else 1.2 / weight.shape[-1] ** 0.5
    return (1.0 if weight.ndim < 2 else 0.0) + scale * mx.random.normal(weight.shape)


def shortened(model: Any, tokens: Any, layers: tuple[int, ...]) -> list[Any]:
    """The logits of the same model with its first j blocks alone, for each j: what an earlier layer says, by another way."""
    found = []
    for j in layers:
        with first_blocks(model, j) as cache:
            found.append(model(tokens, cache=cache).astype(mx.float32))
            mx.eval(found[-1])
    return found


@contextmanager
def first_blocks(model: Any, count: int) -> Iterator[Any]:
    """Inside, a model runs its first blocks alone. Yields a cache of the full length: some files look at later blocks'."""
    gone, cache = {id(block) for block in list(model.layers)[count:]}, make_prompt_cache(model)
    changed = []
    for _, module in model.named_modules():
        for value in module.values():  # `children()` copies lists, and `model.layers` may be a copy too
            if isinstance(value, list) and any(id(each) in gone for each in value):
                changed.append((value, list(value)))
    try:
        for value, _ in changed:
            value[:] = [each for each in value if id(each) not in gone]
        yield cache
    finally:
        for value, before in changed:
            value[:] = before
