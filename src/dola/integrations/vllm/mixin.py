"""What a model of vLLM does under DoLa: its forward hands out the candidate layers, its `compute_logits` the contrast.

    forward          [T, d]  ->  [T, (K+1) d]: the last layer's output, and behind it the captured layers
    (vLLM picks the rows that it wants logits of)
    compute_logits   [N, (K+1) d]  ->  [N, V]: contrastive scores for the rows whose request asks for them

So penalties, grammars, samplers and log-probabilities read the contrast as they read any model's logits. Concatenated, the
layers pass through vLLM's own selection of rows, its compiled graphs and its CUDA graphs as one tensor.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dola.decoding.step import Step
from dola.errors import CaptureError
from dola.integrations.vllm.architectures import CARRIED_APART, CARRIED_WHOLE
from dola.integrations.vllm.batch import Batch, Request, batch_of
from dola.integrations.vllm.carried import carry, hand_out, with_earlier_captures
from dola.integrations.vllm.plugin import served_by
from dola.integrations.vllm.readout import readout_of
from dola.integrations.vllm.settings import Served
from dola.integrations.vllm.sharded import ShardedHead, shard
from dola.integrations.vllm.weights import Reading, check_weights, tracks_weights
from dola.methods.config import MethodConfig
from dola.methods.registry import with_settings
from dola.methods.vocabulary import WHOLE


class DoLaMixin:
    """Comes before a model class of vLLM among the bases. Without DoLa in the engine's settings it does nothing."""

    _dola: Decoder | None = None
    _dola_checks: bool = False
    """Whether the weights that are loaded next have to be all of them: the first ones of an engine with DoLa."""

    def __init__(self, *, vllm_config: Any, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)  # type: ignore[call-arg]
        if (served := served_by(vllm_config)) is not None:
            batch = batch_of(vllm_config)
            width = vllm_config.model_config.get_hidden_size()
            self._dola = Decoder(self, served, batch, super().compute_logits, width)  # type: ignore[misc]
            _capture(self, served.captured, vllm_config.model_config.architecture, width)
            self.embedding_modules = _without_heads(self)
            self.get_model_state_cls = partial(_state_class, batch)  # runner V2 asks for it; absent without DoLa
            self._dola_source, self._dola_quantised = vllm_config.model_config.model, vllm_config.quant_config is not None
            self._dola_checks = tracks_weights(vllm_config.load_config)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
        """As the model's; the first time, weights that the checkpoint lacks are refused.

        Raises:
            ModelFileError: Weights that are missing, or that do not fit.
        """
        load = super().load_weights  # type: ignore[misc]
        if not self._dola_checks:  # later ones may be some of them: a trainer's, for instance
            return load(weights, *args, **kwargs)
        self._dola_checks = False
        reading = Reading(weights)
        with reading.named(self._dola_source):
            loaded = load(reading, *args, **kwargs)
        check_weights(self, self._dola_source, loaded, reading.names, quantised=self._dola_quantised)
        return loaded

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output [T, d], with the captured layers behind it; between pipeline stages IntermediateTensors."""
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        if self._dola is None:
            return output
        output = with_earlier_captures(output, kwargs.get("intermediate_tensors"))
        if not isinstance(output, tuple):
            return output
        hidden, layers = output
        return torch.cat([hidden, *layers], dim=-1)

    def compute_logits(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """Scores [N, V]: contrastive for rows whose request asks for it, the model's own for all others."""
        if self._dola is None:
            return super().compute_logits(hidden_states, *args, **kwargs)  # type: ignore[misc, no-any-return]
        return self._dola.scores(hidden_states)


def _capture(model: Any, layers: tuple[int, ...], architecture: str, width: int) -> None:
    """Have a model's forward hand out layers, as its class does, or carried by its blocks."""
    apart = architecture in CARRIED_APART
    if apart or architecture in CARRIED_WHOLE:
        carry(model, layers, width, residual_apart=apart)
    else:
        hand_out(model, layers, width)


def _without_heads(model: Any) -> dict[str, str]:
    """What adapters may hold beside linear layers: no head, which they would change for mature rows alone."""
    modules = getattr(model, "embedding_modules", {})
    return {name: kind for name, kind in modules.items() if kind != "output_embeddings"}


def _state_class(batch: Batch) -> type[Any]:
    from dola.integrations.vllm.runner_v2 import state_class

    return state_class(batch)


class Decoder:
    """DoLa on one model: splits what the forward handed out, reads the head, contrasts.

    Args:
        model: A model of vLLM.
        served: What its engine serves.
        batch: The rows that are running.
        compute_logits: The model's own, from [N, d] to [N, V].
        width: d, its hidden size.
    """

    def __init__(self, model: Any, served: Served, batch: Batch, compute_logits: Any, width: int) -> None:
        self._model, self._captured, self._batch, self._compute_logits = model, served.captured, batch, compute_logits
        self._width, self._num_layers = width, served.num_layers
        self._sharded = ShardedHead.of(model)
        self._steps: dict[MethodConfig, Step] = {}
        self._widest = with_settings(served.config, layers=served.captured)

    def scores(self, hidden: Tensor) -> Tensor | None:
        """Scores [N, V] from [N, (K+1) d]; None on workers that do not sample."""
        layers = 1 + len(self._captured)
        if hidden.shape[-1] != layers * self._width:
            raise CaptureError(
                f"{type(self._model).__name__} handed out rows of {hidden.shape[-1]} numbers: {layers} layers of {self._width} "
                "were to be there.",
                hint="please report the model and how the engine was started",
            )
        mature, *captures = hidden.chunk(layers, dim=-1)
        mature = mature.contiguous()
        requests = self._requests(len(hidden))
        if requests and self._sharded:
            local = self._sharded.local(self._compute_logits)(mature)
            return self._sharded.whole(self._contrasted(local, captures, requests))
        logits: Tensor | None = self._compute_logits(mature)
        return logits if logits is None or not requests else self._contrasted(logits, captures, requests)

    def _contrasted(self, logits: Tensor, layers: list[Tensor], requests: dict[int, Request]) -> Tensor:
        captures = dict(zip(self._captured, layers, strict=True))
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
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
                "vLLM runs without dola's logits processor, so nobody can tell which rows are to be contrasted.",
                hint="look for other plugins or settings that leave logits processors out",
            )
        if not self._batch.began:  # vLLM measures the memory that a full batch takes: let it see ours
            return dict.fromkeys(range(rows), Request(self._widest, lazy=False, bans=True))
        return {row: request for row, request in self._batch.take().items() if row < rows}

    def _hold(self, logits: Tensor, requests: dict[int, Request]) -> None:
        """Keep the mature logits of rows whose plausible tokens may be banned."""
        rows = [row for row, request in sorted(requests.items()) if request.bans]
        if not rows:
            return
        mine = logits[torch.tensor(rows, device=logits.device)]
        held = self._sharded.whole(mine) if self._sharded else mine
        if held is not None:
            self._batch.held = rows, held.float()

    def _step(self, config: MethodConfig) -> Step:
        if config not in self._steps:
            readout = readout_of(self._model, self._compute_logits, raw=config.raw_head, sharded=self._sharded)
            vocab = shard() if self._sharded else WHOLE
            layers = (*(layer for layer in config.layers if isinstance(layer, int)), self._num_layers)
            self._steps[config] = Step(readout, config, vocab, layers=layers, kernels=not self._sharded)
        return self._steps[config]
