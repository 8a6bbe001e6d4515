"""What a report's recipes read of the layers, at some positions: each distinct readout once, all of them in one product.

Two recipes share a readout if they read the same layer in the same way (`MethodConfig.read_as`). Layers that a method may never
reach, as in Confident Decoding, are not read ahead of it; it finds those that others need anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dola.decoding.candidates import Captured, sums_states, weighted
from dola.decoding.reading import Reading
from dola.lens.maps import Maps
from dola.methods.config import DoLaConfig, MethodConfig, ReadAs
from dola.methods.registry import method_of
from dola.model.anatomy import Anatomy
from dola.model.places import foreign_hooks, readers_of
from dola.native import Product
from dola.scoring.recipe import Recipe


@dataclass
class Way:
    """Layers that are read in the same way.

    Attributes:
        config: One of the configurations that read so.
        layers: The layers, ascending.
    """

    config: MethodConfig
    layers: tuple[int, ...]


class Reads:
    """The readouts of some recipes.

    Args:
        anatomy: The parts of the model.
        recipes: Recipes by name.
        candidates: Candidate layers of those that read any.
        maps: The maps of each lens.

    Attributes:
        ways: The layers that are read for all positions.
        count: Number of rows of logits for each position, the mature one among them.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        recipes: Mapping[str, Recipe],
        candidates: Mapping[str, tuple[int, ...]],
        maps: Mapping[str | None, Maps | None],
    ) -> None:
        self.anatomy, self._candidates, self._maps = anatomy, candidates, maps
        self._configs: dict[str, MethodConfig] = {name: _config(recipes[name]) for name in candidates}
        found: dict[ReadAs, set[int]] = {}
        by_way: dict[ReadAs, MethodConfig] = {}
        self._sums: dict[str, Tensor] = {}
        for name, layers in candidates.items():
            config = self._configs[name]
            if isinstance(config, DoLaConfig) or method_of(config).reads_all:
                by_way.setdefault(config.read_as, config)
                found.setdefault(config.read_as, set()).update(layers)
            elif (sums := self._of_states(config, layers)) is not None:
                self._sums[name] = sums
        self.ways = {way: Way(by_way[way], tuple(sorted(layers))) for way, layers in found.items()}
        self.count = 1 + sum(len(way.layers) for way in self.ways.values()) + sum(map(len, self._sums.values()))

    def _of_states(self, config: MethodConfig, layers: tuple[int, ...]) -> Tensor | None:
        """The weighted sums of states [m, K] that a method reads in every row, if the head can be given sums."""
        sums = method_of(config).first_reads((*layers, self.anatomy.num_layers))
        sums = sums[(sums != 0).sum(dim=-1) > 1]
        return sums if len(sums) and self.anatomy.transforms(config) and sums_states(self.anatomy) else None

    def read(self, hidden: Mapping[int, Tensor]) -> Read:
        """Read the residual streams [R, d] of the layers, and of the mature one."""
        device = hidden[self.anatomy.num_layers].device
        inputs = [self.anatomy.head_input(hidden[self.anatomy.num_layers])[None]]
        for way in self.ways.values():
            inputs.append(self._inputs(way.config, way.layers, hidden, device))
        for name, sums in self._sums.items():
            states = self._inputs(self._configs[name], self._candidates[name], hidden, device)
            inputs.append(weighted(sums, states))
        rows = torch.cat(inputs)
        if foreign_hooks(readers_of(self.anatomy)):  # they see what the model gives them: one layer at a time
            logits = torch.stack([self.anatomy.read_head(each) for each in rows])
        else:
            logits = self.anatomy.read_head(rows.flatten(0, 1)).view(*rows.shape[:2], -1)
        transform = self.anatomy.logit_transform
        found = Read(self, hidden, logits[0] if transform is None else transform(logits[0]))
        start = 1
        for key, way in self.ways.items():
            end = start + len(way.layers)
            found.ways[key] = self.anatomy.after_head(logits[start:end], way.config)
            start = end
        for name, sums in self._sums.items():
            end = start + len(sums)
            found.sums[name] = Reading(logits[start - 1 : end], sums=tuple(map(tuple, sums.tolist())))
            start = end
        return found

    def _inputs(
        self, config: MethodConfig, layers: tuple[int, ...], hidden: Mapping[int, Tensor], device: torch.device
    ) -> Tensor:
        """The head's inputs for some layers read as a configuration says, [K, R, d]."""
        maps = self._maps[config.lens]
        if foreign_hooks(readers_of(self.anatomy)):
            each = [self.anatomy.candidate_input(hidden[layer], config, maps and maps.of([layer])) for layer in layers]
            return torch.stack([state.to(device) for state in each])
        states = torch.stack([hidden[layer].to(device) for layer in layers])
        return self.anatomy.candidate_input(states, config, maps and maps.of(layers))

    def shares(self, config: MethodConfig, layer: int) -> bool:
        """Whether a layer is read for all positions as a configuration reads it."""
        way = self.ways.get(config.read_as)
        return way is not None and layer in way.layers

    def candidates(self, name: str, read: Read, rows: slice) -> Shared:
        """The candidates of a recipe at some of the positions that were read."""
        config, layers = self._configs[name], self._candidates[name]
        maps, sums = self._maps[config.lens], read.sums.get(name)
        return Shared(
            self.anatomy,
            config,
            [read.hidden[layer][rows].to(read.mature.device) for layer in layers],
            layers=(*layers, self.anatomy.num_layers),
            maps=maps and maps.of(layers),
            reading=None if sums is None else Reading(sums.logits[:, rows], sums=sums.sums),
            found=self._found(config, layers, read, rows),
        )

    def _found(self, config: MethodConfig, layers: tuple[int, ...], read: Read, rows: slice) -> Tensor | list[Tensor | None]:
        """The layers' logits that have been read: [K, R, V] if all have, else those that have."""
        way = self.ways.get(config.read_as)
        if way is None:
            return [None] * len(layers)
        places = [way.layers.index(layer) if layer in way.layers else None for layer in layers]
        all_read = read.ways[config.read_as][:, rows]
        if None in places:
            return [None if place is None else all_read[place] for place in places]
        first, known = places[0], [place for place in places if place is not None]
        adjacent = first is not None and known == list(range(first, first + len(layers)))  # a view, not a copy
        return all_read[first : first + len(layers)] if adjacent and first is not None else all_read[known]


class Read:
    """What was read at R positions.

    Attributes:
        hidden: The residual streams, [R, d] for each layer.
        mature: The model's own logits [R, V].
        ways: By way, the logits of its layers [K, R, V].
        sums: By recipe, its sums of states.
    """

    def __init__(self, reads: Reads, hidden: Mapping[int, Tensor], mature: Tensor) -> None:
        self._reads, self.hidden, self.mature = reads, hidden, mature
        self.ways: dict[ReadAs, Tensor] = {}
        self.sums: dict[str, Reading] = {}

    def of(self, way: ReadAs, layer: int) -> Tensor:
        """A layer's logits [R, V]."""
        return self.ways[way][self._reads.ways[way].layers.index(layer)]


class Shared(Captured):
    """A recipe's candidates. Some have been read for others.

    Args:
        found: Logits of those that have: [K, R, V] if all have, else None or [R, V] for each.
        **: See `Captured`.
    """

    def __init__(self, *args: Any, found: Tensor | list[Tensor | None], **captured: Any) -> None:
        super().__init__(*args, **captured)
        self._found = found

    def product(self, layers: Sequence[int], rows: Sequence[int] | Tensor | None = None) -> Product:
        """See `Captured.product`."""
        if isinstance(self._found, Tensor) and list(layers) == list(range(len(self))):
            read = self._found
        else:
            found = [self._found[k] for k in layers]
            known = [logits for logits in found if logits is not None]
            if len(known) < len(found):
                return super().product(layers, rows)
            read = known[0][None] if len(known) == 1 else torch.stack(known)
        return Product(read if rows is None else read[..., rows, :])

    def drawn(self, chosen: Tensor) -> Tensor:
        """Logits [R, V] of one candidate for each position, by place [R]."""
        places = torch.arange(len(chosen), device=chosen.device)
        if isinstance(self._found, Tensor):
            return self._found[chosen, places]
        inputs = self._readout.candidate_input(torch.stack(self._hidden), self._config, self._maps)
        return self._readout.after_head(self._readout.read_head(inputs[chosen, places]), self._config)


def _config(recipe: Recipe) -> MethodConfig:
    assert recipe.dola is not None
    return recipe.dola
