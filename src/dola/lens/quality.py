"""How well each layer can be read, through a lens and through the bare final norm, on text that was held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dola.lens.lens import Lens
from dola.lens.maps import Maps

if TYPE_CHECKING:
    from dola.model.anatomy import Anatomy


ELEMENTS = 2**22
"""Positions are read so many at a time that positions * |V| stays below this: 16 MiB of float32."""


@dataclass
class _Reading:
    """Sums over positions: KL(mature || layer) in nats, and how often both have the same likeliest token."""

    kl: float = 0.0
    same: int = 0

    def add(self, log_p: Tensor, logits: Tensor) -> None:
        log_q = logits.float().log_softmax(dim=-1)
        self.kl += float((log_p.exp() * (log_p - log_q)).sum(dtype=torch.float64))
        self.same += int((log_p.argmax(dim=-1) == log_q.argmax(dim=-1)).sum())


@dataclass
class _Layer:
    lens: _Reading = field(default_factory=_Reading)
    norm: _Reading = field(default_factory=_Reading)
    error: float = 0.0


class Table:
    """What is added up over held-out positions for each layer of a lens.

    Args:
        anatomy: The parts of the model.
        lens: The lens to judge.
    """

    def __init__(self, anatomy: Anatomy, lens: Lens) -> None:
        self._anatomy, self._lens = anatomy, lens
        self._layers = {layer: _Layer() for layer in lens.layers}
        self._maps: dict[int, Maps] = {}
        self._count, self._sum, self._squares = 0, torch.zeros(lens.width, dtype=torch.float64), 0.0

    @torch.no_grad()
    def add(self, states: Mapping[int, Tensor], target: Tensor) -> None:
        """Count n positions: the states [n, d] of each layer and of the last one, and the head's input [n, d]."""
        size = max(1, ELEMENTS // self._anatomy.vocabulary)
        for start in range(0, len(target), size):
            rows = slice(start, start + size)
            self._add({layer: value[rows] for layer, value in states.items()}, target[rows])

    def _add(self, states: Mapping[int, Tensor], target: Tensor) -> None:
        wanted = target.double()
        self._count += len(target)
        self._sum += wanted.sum(dim=0).cpu()
        self._squares += float(wanted.square().sum())
        log_p = self._anatomy.readout(states[self._anatomy.num_layers]).float().log_softmax(dim=-1)
        for layer, found in self._layers.items():
            mapped = self._map(layer, states[layer])(states[layer]).to(target.device)
            found.error += float((wanted - mapped.double()).square().sum())
            found.lens.add(log_p, self._anatomy.readout(mapped, final_norm=self._lens.kind == "tuned"))
            found.norm.add(log_p, self._anatomy.readout(states[layer].to(target.device)))

    def _map(self, layer: int, like: Tensor) -> Maps:
        if layer not in self._maps:
            self._maps[layer] = self._lens.maps([layer], device=like.device, dtype=like.dtype)
        return self._maps[layer]

    def rows(self) -> list[dict[str, Any]]:
        """One row for each layer: R^2, KL to the mature distribution in nats, and the share of equal likeliest tokens."""
        n = max(self._count, 1)
        total = self._squares - float(self._sum.square().sum()) / n
        return [
            {
                "layer": layer,
                "r2": 1 - found.error / total if total > 0 and self._lens.kind == "linear" else None,
                "kl": found.lens.kl / n,
                "top1": found.lens.same / n,
                "norm_kl": found.norm.kl / n,
                "norm_top1": found.norm.same / n,
            }
            for layer, found in self._layers.items()
        ]


def with_start(rows: list[dict[str, Any]], start: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a refined lens, with KL and agreement of the lens that the refinement began with."""
    return [{**row, "start_kl": first["kl"], "start_top1": first["top1"]} for row, first in zip(rows, start, strict=True)]
