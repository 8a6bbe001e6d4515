"""A method's settings as a function on the logits of several layers, compiled by MLX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx

from dola.errors import ConfigError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.config_confident import ConfidentConfig
from dola.methods.config_delta import DeLTaConfig
from dola.methods.config_sled import SLEDConfig
from dola.mlx import formulas

Scores = tuple[mx.array, mx.array]
Rule = Callable[[mx.array, mx.array], Scores]
"""From mature logits [..., V] and premature ones [K, ..., V] to scores [..., V], and weights of the layers [K+1, ...]."""


def rule(config: MethodConfig, layers: tuple[int, ...]) -> Rule:
    """The rule of these settings.

    Args:
        config: The settings.
        layers: The candidate layers, followed by the number of the mature one.

    Raises:
        ConfigError: A method that has no form for MLX, or a setting that it lacks here.
    """
    make = _RULES.get(type(config))
    if make is None:
        known = ", ".join(kind.method for kind in _RULES)
        raise ConfigError(
            f"The method {config.method!r} has no form for MLX; allowed are {known}.", hint="dola.attach, with transformers"
        )
    if config.draws:
        raise ConfigError(
            f"probability={config.probability} draws by position, and positions are not known with MLX; "  # type: ignore[attr-defined]
            "allowed are 0 and 1.",
            hint="use probability=1",
        )
    return make(config, layers)


def reads(config: MethodConfig) -> bool:
    """Whether any layer is read: with settings that change nothing, the model's own logits are returned as they are."""
    if isinstance(config, DoLaConfig):
        return not (config.scores == "distribution" and config.strength == 0)
    return not (isinstance(config, ConfidentConfig) and config.probability == 0)


def _dola(config: Any, layers: tuple[int, ...]) -> Rule:
    how = {name: getattr(config, name) for name in ("relative_top", "divergence", "strength", "scores")}

    def run(mature: mx.array, premature: mx.array) -> Scores:
        chosen = formulas.select(mature, premature, config.divergence)
        return formulas.contrast(mature, premature, **how), _one(chosen, layers)

    return run


def _confident(config: Any, layers: tuple[int, ...]) -> Rule:
    downwards = sorted(range(len(layers) - 1), key=lambda k: layers[k], reverse=True)

    def run(mature: mx.array, premature: mx.array) -> Scores:
        scores, chosen = formulas.confident(mature, premature, downwards)
        return scores, _one(chosen, layers)

    return run


def _delta(config: Any, layers: tuple[int, ...]) -> Rule:
    line = formulas.line_weights(layers, config.beyond)

    def run(mature: mx.array, premature: mx.array) -> Scores:
        shape = (len(line), *mature.shape[:-1])
        weights = mx.broadcast_to(mx.array(line).reshape(-1, *[1] * (mature.ndim - 1)), shape)
        return formulas.delta(mature, premature, line, config.relative_top), weights

    return run


def _sled(config: Any, layers: tuple[int, ...]) -> Rule:
    return lambda mature, premature: formulas.sled(mature, premature, rate=config.rate, scale=config.scale, steps=config.steps)


def _one(chosen: mx.array, layers: tuple[int, ...]) -> mx.array:
    """Weight 1 for one layer, 0 for the others."""
    numbers = mx.arange(len(layers)).reshape(-1, *[1] * chosen.ndim)
    return (numbers == chosen[None]).astype(mx.float32)


_RULES: dict[type[MethodConfig], Callable[[Any, tuple[int, ...]], Rule]] = {
    DoLaConfig: _dola,
    ConfidentConfig: _confident,
    DeLTaConfig: _delta,
    SLEDConfig: _sled,
}


def settled_scores(config: MethodConfig) -> Callable[[mx.array], tuple[mx.array, mx.array]] | None:
    """Whether one token is plausible in every row of mature logits [..., V], and the scores where that is so.

    None for methods in which any row may need its layers.
    """
    if not isinstance(config, (DoLaConfig, DeLTaConfig)):
        return None
    scores = getattr(config, "scores", None)

    def run(mature: mx.array) -> tuple[mx.array, mx.array]:
        inside = formulas.plausible(mature, config.relative_top)
        found = mature if scores == "distribution" else formulas.with_floor(mature, inside, mature)
        return (inside.sum(axis=-1) == 1).all(), found

    return run
