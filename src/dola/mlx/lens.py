"""A lens on a model of mlx-lm. It is the same file as for transformers; this module reads it without torch."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import mlx.core as mx

from dola.errors import LensError
from dola.files.json_text import BrokenJSONError, loads
from dola.lens.source import located
from dola.methods.config import MethodConfig
from dola.mlx.parts import Parts, named

SCHEMA = "dola.lens/1"
SAMPLES = 16
SAME = 5e-3
QUANTIZED = 0.2


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of K layers: as `dola.lens.maps.Maps`."""

    layers: tuple[int, ...]
    weight: mx.array
    bias: mx.array
    residual: bool
    final_norm: bool

    def of(self, layer: int) -> Maps:
        """The map of one layer alone."""
        k = self.layers.index(layer)
        return Maps((layer,), self.weight[k : k + 1], self.bias[k : k + 1], self.residual, self.final_norm)

    def __call__(self, states: list[mx.array]) -> list[mx.array]:
        """Mapped states, each [B, T, d]."""
        mapped = [state @ weight.T + bias for state, weight, bias in zip(states, self.weight, self.bias, strict=True)]
        return [state + new for state, new in zip(states, mapped, strict=True)] if self.residual else mapped


def maps_of(parts: Parts, config: MethodConfig, layers: tuple[int, ...] | None) -> Maps | None:
    """The maps of a configuration's lens for a model, by default of all layers that it has; None without a lens.

    Raises:
        LensError: A lens that cannot be read, that belongs to another model, or that has no map for one of these layers.
    """
    if config.lens is None:
        return None
    tensors, facts = _read(config.lens)
    _check(parts, tensors, facts)
    kind, known, model = facts["kind"], list(facts["layers"]), facts.get("model") or "unknown"
    layers = tuple(known) if layers is None else layers
    if missing := [layer for layer in layers if layer not in known]:
        raise LensError(
            f"The lens of {model} has no map for layer {missing[0]}; it has {', '.join(map(str, known))}.",
            hint="choose layers that the lens has, or fit one with --layers all",
        )
    places = [known.index(layer) for layer in layers]
    weight, bias = (mx.stack([tensors[name][k] for k in places]).astype(mx.float32) for name in ("weight", "bias"))
    return Maps(layers, weight, bias, residual=kind == "tuned", final_norm=kind == "tuned")


def _read(source: str) -> tuple[dict[str, mx.array], dict[str, Any]]:
    path = located(source)
    try:
        tensors, metadata = mx.load(str(path), format="safetensors", return_metadata=True)
        mx.eval(tensors)
        facts = loads(metadata.get("dola", "null"))
    except BrokenJSONError:
        facts = None
    except (RuntimeError, OSError, ValueError):
        raise LensError(
            f"The lens {str(path)!r} cannot be read: it is cut off, or not safetensors.",
            hint="get it again, or fit it: dola lens fit",
        ) from None
    if not isinstance(facts, dict) or facts.pop("schema", None) != SCHEMA:
        raise LensError(
            f"{str(path)!r} is not a lens: its metadata does not say {SCHEMA!r}.",
            hint="fit one (dola lens fit MODEL --output FILE), or import a tuned lens (dola lens import FOLDER)",
        )
    weight, bias, layers = tensors.get("weight"), tensors.get("bias"), facts.get("layers")
    if (
        facts.get("kind") not in ("linear", "tuned")
        or not isinstance(layers, list)
        or any(type(layer) is not int for layer in layers)
        or weight is None
        or bias is None
        or weight.ndim != 3
        or weight.shape != (len(layers), weight.shape[1], weight.shape[1])
        or bias.shape != weight.shape[:2]
    ):
        raise LensError(
            f"{str(path)!r} is not a lens that this version reads: its kind is {facts.get('kind')!r}, its layers are "
            f"{layers!r}.",
            hint="fit it again: dola lens fit MODEL --output FILE",
        )
    if not (mx.isfinite(weight).all() & mx.isfinite(bias).all()).item():
        raise LensError(f"The lens {str(path)!r} has NaN or infinite numbers.", hint="fit it again on other text")
    return tensors, facts


def _check(parts: Parts, tensors: dict[str, mx.array], facts: dict[str, Any]) -> None:
    """Raise LensError where sizes or weights show that the lens belongs to another model."""
    name, lens = named(parts.model), facts.get("model") or "unknown"
    args = getattr(parts.model, "args", None)
    width = getattr(args, "hidden_size", None) or tensors["weight"].shape[-1]
    theirs, mine = (facts.get("num_layers"), tensors["weight"].shape[-1]), (parts.num_layers, width)
    hint = "fit one for this model: dola lens fit MODEL --output FILE"
    if theirs != mine:
        raise LensError(
            f"The lens belongs to {lens} ({theirs[0]} layers, width {theirs[1]}), not to {name} ({mine[0]} layers, "
            f"width {mine[1]}).",
            hint=hint,
        )
    far, compared = 0.0, 0
    for key, weight in _weights(parts):
        kept = tensors.get(f"model.{key}")
        if kept is not None:
            compared += 1
            far = max(far, _difference(_numbers(weight), kept))
            if not far <= (QUANTIZED if facts.get("quantized") else SAME):
                raise LensError(
                    f"The lens belongs to {lens}, and {name} has other weights: {key} differs by {far:.1%}.", hint=hint
                )
    if not compared:
        warnings.warn(f"Whether the lens of {lens} belongs to {name} could not be checked for the weights.", stacklevel=2)


def _weights(parts: Parts) -> list[tuple[str, mx.array]]:
    """Weights by the names that a lens keeps, as `dola.lens.fingerprint`. Quantized ones are left out."""
    from mlx.utils import tree_flatten

    named_parts = [(f"block.{j}", block) for j, block in enumerate(parts.blocks)]
    named_parts.append(("head", parts.head if parts.head is not None else parts.embedding))
    found = []
    for part, module in named_parts:
        weights = dict(tree_flatten(module.parameters())) if module is not None else {}
        for name, weight in weights.items():
            owner = name.rpartition(".")[0]
            if (f"{owner}.scales" if owner else "scales") not in weights and mx.issubdtype(weight.dtype, mx.floating):
                found.append((f"{part}.{name}", weight))
    return found


def _numbers(weight: mx.array) -> mx.array:
    """Mean, root mean square and some elements, as `fingerprint.numbers_of`."""
    flat = weight.reshape(-1)
    last = flat.size - 1
    places = mx.array([int(i * (last / (SAMPLES - 1))) for i in range(SAMPLES)])
    wide = flat.astype(mx.float32)
    return mx.concatenate([mx.stack([wide.mean(), mx.sqrt((wide**2).mean())]), wide[places]])


def _difference(mine: mx.array, theirs: mx.array) -> float:
    size = max(float(mine[1].item()), 1e-12)
    samples = float(mx.sqrt(((mine[2:] - theirs[2:]) ** 2).mean()).item()) / size
    return max(samples, abs(float((mine[1] - theirs[1]).item())) / size)
