"""Adapters that act on a model without being merged into its weights, as PEFT puts them there.

A layer with adapters holds the plain layer as `base_layer`. Its parameters do not say whether an adapter acts: switching one on
or off changes no weight. PEFT is not imported: the attributes of a layer say whether it is one of PEFT's.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def acting(layer: nn.Module) -> tuple[str, ...]:
    """The adapters of one layer that change what it returns and are not merged."""
    if not isinstance(getattr(layer, "base_layer", None), nn.Module) or getattr(layer, "disable_adapters", False):
        return ()
    merged, names = getattr(layer, "merged_adapters", ()), getattr(layer, "active_adapters", ())
    there = {name for attribute in getattr(layer, "adapter_layer_names", ()) for name in getattr(layer, attribute, ())}
    return tuple(name for name in names if name in there and name not in merged)


def adapted(module: nn.Module) -> Iterator[tuple[str, nn.Module, tuple[str, ...]]]:
    """The layers of a module on which adapters act: name, layer, and the adapters."""
    for name, layer in module.named_modules():
        if names := acting(layer):
            yield name, layer, names


def adapter_names(module: nn.Module) -> list[str]:
    """The adapters that act anywhere in a module, sorted."""
    return sorted({name for _, _, names in adapted(module) for name in names})


@torch.no_grad()
def added(layer: Any, names: tuple[str, ...]) -> Tensor | None:
    """What adapters add to the weight of their layer; None where an adapter does more than add a matrix."""
    if not (hasattr(layer, "lora_A") or hasattr(layer, "lora_embedding_A")):
        return None
    if any(name in getattr(layer, "lora_variant", {}) for name in names):  # DoRA also scales the weight
        return None
    total: Tensor | None = None
    for name in names:
        delta: Tensor = layer.get_delta_weight(name)
        total = delta if total is None else total + delta
    return total
