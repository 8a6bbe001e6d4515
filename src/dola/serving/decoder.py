"""Scores of a running batch: each row by the configuration of its request, from the layers that the forward handed out.

    rows [N, (K+1) d] -> mature logits, and the candidates each request chose -> Step -> scores [N, V]

The engine lends its readout (`EngineModel`). Where several workers have a part of the head each, all of them read and contrast
their own columns, and the columns are gathered at the end.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Protocol

import torch
from torch import Tensor

from dola.decoding.step import Step
from dola.errors import CaptureError
from dola.methods.config import MethodConfig
from dola.methods.registry import with_settings
from dola.methods.vocabulary import WHOLE, Vocabulary, wide
from dola.model.readout import Readout
from dola.serving.rows import Batch, Request
from dola.serving.settings import Served


class EngineModel(Protocol):
    """A model of an engine, as far as decoding needs it.

    Attributes:
        engine: Its engine's name, for messages.
        name: Its own, for messages.
        vocab: The vocabulary, or the part of it that this worker has.
    """

    engine: str
    name: str
    vocab: Vocabulary

    def logits(self, mature: Tensor) -> Tensor | None:
        """The model's own, from [N, d] to [N, V]; None on workers that do not sample."""

    def local(self, mature: Tensor) -> Tensor:
        """Those of this worker's columns."""

    def whole(self, local: Tensor) -> Tensor | None:
        """All workers' columns of what each has; None on workers that do not sample."""

    def readout(self, *, raw: bool) -> Readout:
        """From residual streams to this worker's columns; raw leaves out what the model does to its head's output."""


class Decoder:
    """DoLa on one model: splits what the forward handed out, reads the head, contrasts.

    Args:
        model: What the engine lends.
        served: What the engine serves.
        batch: The rows that are running.
        width: d, the model's hidden size.
    """

    def __init__(self, model: EngineModel, served: Served, batch: Batch, width: int) -> None:
        self._model, self._captured, self._batch, self._width = model, served.captured, batch, width
        self._steps: dict[MethodConfig, Step] = {}
        self._widest = with_settings(served.config, layers=served.captured)

    def scores(self, hidden: Tensor) -> Tensor | None:
        """Scores [N, V] from [N, (K+1) d]; None on workers that do not sample."""
        layers = 1 + len(self._captured)
        if hidden.shape[-1] != layers * self._width:
            raise CaptureError(
                f"{self._model.name} handed out rows of {hidden.shape[-1]} numbers: {layers} layers of {self._width} "
                "were to be there.",
                hint="please report the model and how the engine was started",
            )
        mature, *captures = hidden.chunk(layers, dim=-1)
        mature = mature.contiguous()
        requests = self._requests(len(hidden))
        if not requests:
            return self._model.logits(mature)
        return self._model.whole(self._contrasted(self._model.local(mature), captures, requests))

    def _contrasted(self, logits: Tensor, layers: list[Tensor], requests: dict[int, Request]) -> Tensor:
        captures = dict(zip(self._captured, layers, strict=True))
        scores = wide(logits, copy=True)
        groups: dict[tuple[MethodConfig, bool], list[int]] = defaultdict(list)
        for row, request in sorted(requests.items()):
            groups[request.config, request.lazy].append(row)
        for (config, lazy), rows in groups.items():
            index = torch.tensor(rows, device=logits.device)
            read = [captures[layer][index] for layer in config.layers if isinstance(layer, int)]
            scores[index] = self._step(config).scores(logits[index], read, lazy=lazy)
        self._hold(logits, requests)
        return scores

    def _requests(self, rows: int) -> dict[int, Request]:
        if not self._batch.wired:
            raise CaptureError(
                f"{self._model.engine} runs without dola's logits processor, so nobody can tell which rows are to be "
                "contrasted.",
                hint="look for other plugins or settings that leave logits processors out",
            )
        if not self._batch.began:  # the engine measures the memory that a full batch takes: let it see ours
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

    def _step(self, config: MethodConfig) -> Step:
        if config not in self._steps:
            vocab = self._model.vocab
            readout = self._model.readout(raw=config.raw_head)
            self._steps[config] = Step(readout, config, vocab, kernels=vocab is WHOLE)
        return self._steps[config]
