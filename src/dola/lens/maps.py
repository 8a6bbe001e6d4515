"""A lens on some candidate layers of a model: what the readout applies to their states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of K layers, in their order, in the number type and on the device of a model.

    Attributes:
        layers: The layers.
        weight: [K, d, d], transposed, so that a state is multiplied from the left. None where the states are mapped already.
        bias: [K, 1, d].
        residual: Whether a map's result is added to the state ("tuned").
        final_norm: Whether mapped states pass the final norm before the head.
    """

    layers: tuple[int, ...]
    weight: Tensor | None
    bias: Tensor
    residual: bool
    final_norm: bool
    _parts: dict[tuple[int, ...], Maps] = field(default_factory=dict, repr=False)

    def __call__(self, hidden: Tensor) -> Tensor:
        """Mapped states, of the shape of `hidden`: [..., d] for one layer, [K, ..., d] for several."""
        if self.weight is None:
            return hidden
        weight, bias = self.weight.to(hidden), self.bias.to(hidden)  # no copies where they fit
        mapped = torch.baddbmm(bias, hidden.reshape(len(weight), -1, hidden.shape[-1]), weight).view(hidden.shape)
        return hidden + mapped if self.residual else mapped

    def of(self, layers: Sequence[int]) -> Maps:
        """The maps of some of these layers."""
        wanted = tuple(layers)
        if wanted == self.layers or self.weight is None:
            return self
        if wanted not in self._parts:
            places = [self.layers.index(layer) for layer in wanted]
            part = slice(places[0], places[0] + 1) if len(places) == 1 else places  # one layer is a view, not a copy
            self._parts[wanted] = replace(self, layers=wanted, weight=self.weight[part], bias=self.bias[part], _parts={})
        return self._parts[wanted]

    def of_one(self, k: int) -> Maps:
        """The map of the k-th layer."""
        return self.of(self.layers[k : k + 1])

    def applied(self) -> Maps:
        """For states that are mapped already: what is left is the readout after the map."""
        return replace(self, weight=None, _parts={})
