"""The residual streams of one text, and the logits of each layer at some of its positions. Traces read them."""

from __future__ import annotations

from types import TracebackType

import mlx.core as mx

from dola.methods.config import DoLaConfig, MethodConfig
from dola.mlx.check import check_readout
from dola.mlx.lens import maps_of
from dola.mlx.parts import Parts
from dola.mlx.session import Attachment


class Streams:
    """The residual streams of layers 0 to N: a context manager that restores the model at its end.

    Args:
        parts: The parts of the model, which has no method attached.
        config: The settings, which say how candidates are read out.
        ids: The tokens of the text, read in one forward.

    Raises:
        ReadoutError: The parts do not reproduce the model's logits.
        LensError: The lens belongs to another model.
    """

    def __init__(self, parts: Parts, config: MethodConfig, ids: list[int]) -> None:
        self._last, self._maps = parts.num_layers, maps_of(parts, config, None)
        self._final_norm = config.final_norm
        divergence = "reference" if config.raw_head else "jsd"  # which readouts that skip the head's transform come with
        every = DoLaConfig(tuple(range(self._last)), final_norm=config.final_norm, divergence=divergence)
        self._attached = Attachment(parts, every)
        try:
            row = mx.array([ids])
            check_readout(self._attached, row)
            self._states = self._attached.states(row)
        except BaseException:
            self._attached.remove()
            raise

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._attached.remove()

    def logits(self, positions: range) -> dict[int, mx.array]:
        """The logits [n, V] of each layer: of the mature one as in the model, of others as the configuration says.

        Layers that the lens lacks are read through the final norm.
        """
        here = {layer: states[:, positions.start : positions.stop] for layer, states in self._states.items()}
        normed: dict[int, mx.array] = {self._last: here[self._last]}
        raw: dict[int, mx.array] = {}
        for layer in range(self._last):
            state, through = here[layer], self._final_norm
            if self._maps is not None and layer in self._maps.layers:
                (state,) = self._maps.of(layer)([state])
                through = through and self._maps.final_norm
            (normed if through else raw)[layer] = state
        logits, head = self._attached.end(mx.concatenate([*normed.values()]), mx.concatenate([*raw.values()]) if raw else None)
        found = {}
        for k, layer in enumerate([*normed, *raw]):
            found[layer] = logits[k] if head is None or layer == self._last else head[k]
        return dict(sorted(found.items()))
