"""Scores a running batch: each row with the configuration of its request, from the layers that the forward pass captured.

    rows [N, d] -> mature logits, and the candidates each request chose -> Step -> scores [N, V]

The engine provides its readout (`EngineModel`). If several workers hold a part of the head each, each of them reads and
contrasts its own columns, and the columns are gathered at the end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from dola.decoding.step import Step
from dola.errors import CaptureError
from dola.lens.belongs import check_sizes, check_statistics
from dola.lens.lens import Lens
from dola.lens.maps import Maps
from dola.methods.config import MethodConfig
from dola.methods.registry import with_settings
from dola.methods.vocabulary import Vocabulary, wide
from dola.model.readout import Readout
from dola.serving.counts import PLAIN, Counts
from dola.serving.rows import Batch, Request
from dola.serving.settings import Served

Captured = Callable[[int, Tensor], Tensor]
"""From a layer and row numbers [R] to the residual streams [R, d] that the forward pass captured."""


class EngineModel(Protocol):
    """The parts of an engine's model that decoding needs.

    Attributes:
        engine: Name of the engine, for messages.
        name: Name of the model, for messages.
        vocab: The vocabulary, or this worker's part of it.
    """

    engine: str
    name: str
    vocab: Vocabulary

    def logits(self, mature: Tensor) -> Tensor | None:
        """The model's own logits, from [N, d] to [N, V]; None on workers that do not sample."""

    def local(self, mature: Tensor) -> Tensor:
        """The logits of this worker's columns."""

    def whole(self, local: Tensor) -> Tensor | None:
        """All workers' columns, gathered; None on workers that do not sample."""

    def statistics(self) -> dict[str, Tensor]:
        """Statistics of the weights that this worker holds completely, to compare with a lens: see `lens.fingerprint`."""

    def readout(self, *, raw: bool) -> Readout:
        """The readout from residual streams to this worker's columns; `raw` omits the model's change to its head's output."""


class Decoder:
    """DoLa on one model: reads the head for the layers that a forward has captured, and computes the contrast.

    Args:
        model: The engine's model.
        served: The settings of the engine.
        batch: The running rows.
        width: d, the model's hidden size.

    Attributes:
        counts: The rows that were scored, by method.
    """

    def __init__(self, model: EngineModel, served: Served, batch: Batch, width: int) -> None:
        self._model, self._captured, self._batch = model, served.captured, batch
        self.counts = Counts()
        self._steps: dict[MethodConfig, Step] = {}
        self._num_layers = served.num_layers
        self._lens = None if served.config.lens is None else Lens.load(served.config.lens)
        if self._lens is not None:
            check_sizes(self._lens, model.name, num_layers=served.num_layers, width=width)
        self._maps: Maps | None = None
        self._widest = with_settings(served.config, layers=served.captured)

    def scores(self, mature: Tensor, read: Captured) -> Tensor | None:
        """Scores [N, V] from the last layer's rows [N, d]; None on workers that do not sample."""
        counted = self._batch.pending
        requests = self._requests(len(mature))
        if counted:
            self.counts.add(PLAIN, len(mature) - len(requests))
        if not requests:
            return self._model.logits(mature)
        return self._model.whole(self._contrasted(self._model.local(mature), read, requests))

    def _contrasted(self, logits: Tensor, read: Captured, requests: dict[int, Request]) -> Tensor:
        groups: dict[tuple[MethodConfig, bool], list[int]] = defaultdict(list)
        for row, request in sorted(requests.items()):
            groups[request.config, request.lazy].append(row)
        self._hold(logits, requests)
        one_way = len(groups) == 1 and len(requests) == len(logits)
        if one_way and self._batch.began:  # nothing has to be copied; but when memory is measured, the most must be used
            (way,) = groups
            return self._scored(*way, logits, torch.arange(len(logits), device=logits.device), read)
        scores = wide(logits, copy=True)
        for way, rows in groups.items():
            index = torch.tensor(rows, device=logits.device)
            scores[index] = self._scored(*way, logits[index], index, read)
        return scores

    def _scored(self, config: MethodConfig, lazy: bool, logits: Tensor, rows: Tensor, read: Captured) -> Tensor:
        """Scores of rows with the same settings, from their mature logits [R, V] and their numbers [R]."""
        states = [read(layer, rows) for layer in config.layers if isinstance(layer, int)]
        step = self._step(config, states[0])
        settled = step.rows_saved
        scores = step.scores(logits, states, lazy=lazy)
        if self._batch.began:
            self.counts.add(config.method, len(rows), step.rows_saved - settled)
        return scores

    def _requests(self, rows: int) -> dict[int, Request]:
        if not self._batch.wired:
            raise CaptureError(
                f"{self._model.engine} runs without dola's logits processor, so it is unknown which rows to contrast.",
                hint="look for other plugins or settings that leave logits processors out",
            )
        if not self._batch.began:  # the engine measures the memory of a full batch: include DoLa's
            return dict.fromkeys(range(rows), Request(self._widest, lazy=False, bans=True))
        return {row: request for row, request in self._batch.take().items() if row < rows}

    def _hold(self, logits: Tensor, requests: dict[int, Request]) -> None:
        """Keep the mature logits of rows whose plausible tokens may be banned."""
        rows = [row for row, request in sorted(requests.items()) if request.bans]
        if not rows:
            return
        held = self._model.whole(logits[torch.tensor(rows, device=logits.device)])
        if held is not None:
            self._batch.held = rows, held.float()

    def check_lens(self, name: str, *, dtype: torch.dtype, quantized: bool) -> None:
        """Compare the lens with the weights. Call this once they are loaded, before the engine packs them.

        Raises:
            LensError: The lens belongs to another model.
        """
        if self._lens is not None:
            check_statistics(self._lens, name, self._model.statistics(), dtype=dtype, quantized=quantized)

    def _read_through(self, config: MethodConfig, layers: tuple[int, ...], like: Tensor) -> Maps | None:
        """The lens for these layers, on the device and in the dtype of their states."""
        if self._lens is None or config.lens is None:
            return None
        if self._maps is None:
            self._maps = self._lens.maps(self._captured, device=like.device, dtype=like.dtype)
        return self._maps.of(layers)

    def _step(self, config: MethodConfig, like: Tensor) -> Step:
        if config not in self._steps:
            vocab = self._model.vocab
            readout = self._model.readout(raw=config.raw_head)
            layers = tuple(layer for layer in config.layers if isinstance(layer, int))
            maps = self._read_through(config, layers, like)
            numbers = (*layers, self._num_layers)
            self._steps[config] = Step(readout, config, vocab, layers=numbers, maps=maps)
        return self._steps[config]
