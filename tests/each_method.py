"""The methods of the product, for tests of each of them. A new method goes through all doors by its line here."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import dola
from dola.methods import Candidates, MethodConfig

METHODS: dict[str, MethodConfig] = {
    "dola": dola.DoLaConfig("high", relative_top=0.05),
    "confident": dola.ConfidentConfig("last:4"),
    "delta": dola.DeLTaConfig("last:4", relative_top=0.05),
    "sled": dola.SLEDConfig(rate=3.0, scale=20),
}
"""Each with a setting that is not its default, and layers that a model with six blocks has."""

each_method = pytest.mark.parametrize("name", METHODS)


def named(config: MethodConfig) -> dict[str, Any]:
    """The `dola_...` arguments of a call that mean this configuration."""
    return {f"dola_{name}": value for name, value in config.as_dict().items()}


def on_command_line(config: MethodConfig) -> list[str]:
    """The same as options of the command: --method, --layers, and --set for what is not a default."""
    changed = {each.name: getattr(config, each.name) for each in config.options() if each.default != getattr(config, each.name)}
    asked = ["--method", config.method, "--layers", str(config.layers)]
    return [*asked, *(f"--set={name}={value}" for name, value in changed.items())]


class Given(Candidates):
    """Candidates whose logits [K, R, V] are at hand."""

    def __init__(self, premature: Tensor, positions: Tensor | None = None, layers: tuple[int, ...] = ()) -> None:
        self._premature, self.positions = premature, positions
        self.layers = layers or tuple(range(len(premature) + 1))

    def __len__(self) -> int:
        return len(self._premature)

    def logits(self, k: Any = None, rows: Any = None) -> Tensor:
        layers = self._premature if k is None else self._premature[k]
        return layers if rows is None else layers[..., rows, :]

    def combined(self, mature: Tensor, weights: Tensor, rows: Any = None) -> Tensor:
        layers = self.logits(rows=rows)
        return torch.einsum("k,krv->rv", weights, torch.cat([layers, mature[None]]).to(weights))
