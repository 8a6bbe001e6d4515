"""A model of vLLM with DoLa: its forward returns the candidate layers, its `compute_logits` the contrast.

    forward          [T, d]  ->  [T, (K+1) d]: the last layer's output, then the captured layers
    (vLLM selects the rows whose logits it needs)
    compute_logits   [N, (K+1) d]  ->  [N, V]: contrastive scores for the rows whose request asks for them

So penalties, grammars, samplers and log-probabilities read the contrast like any model's logits. Concatenated, the layers pass
through vLLM's selection of rows, its compiled graphs and its CUDA graphs as one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dola.integrations.vllm import metrics
from dola.integrations.vllm.architectures import CARRIED_APART, CARRIED_WHOLE
from dola.integrations.vllm.carried import carry, hand_out, with_earlier_captures
from dola.integrations.vllm.plugin import served_by
from dola.integrations.vllm.readout import VLLMModel
from dola.integrations.vllm.weights import Reading, check_weights, tracks_weights
from dola.serving.decoder import Decoder
from dola.serving.rows import Batch, batch_of


class DoLaMixin:
    """The first base class, before a model class of vLLM. Without DoLa in the engine's settings it does nothing."""

    _dola: Decoder | None = None
    _dola_checks: bool = False
    """Whether the next load must bring all weights: the first load of an engine with DoLa."""

    def __init__(self, *, vllm_config: Any, prefix: str = "", **kwargs: Any) -> None:
        super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)  # type: ignore[call-arg]
        if (served := served_by(vllm_config)) is not None:
            batch = batch_of(vllm_config)
            width = vllm_config.model_config.get_hidden_size()
            self._dola = Decoder(VLLMModel(self, super().compute_logits), served, batch, width)  # type: ignore[misc]
            _capture(self, served.captured, vllm_config.model_config.architecture, width)
            self.embedding_modules = _without_heads(self)
            self.get_model_state_cls = partial(_state_class, batch)  # runner V2 asks for it; absent without DoLa
            self._dola_dtype, self._dola_unread = vllm_config.model_config.dtype, True
            self._dola_source, self._dola_quantised = vllm_config.model_config.model, vllm_config.quant_config is not None
            self._dola_checks = tracks_weights(vllm_config.load_config)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]], *args: Any, **kwargs: Any) -> Any:
        """Load weights as the model does. The first time, a checkpoint that lacks weights is refused.

        Raises:
            ModelFileError: Weights are missing or do not fit.
            LensError: The lens belongs to another model.
        """
        load = super().load_weights  # type: ignore[misc]
        if not self._dola_checks:  # later loads may bring only some: a trainer's, for instance
            loaded = load(weights, *args, **kwargs)
            self._dola_check_lens()
            return loaded
        self._dola_checks = False
        reading = Reading(weights)
        with reading.named(self._dola_source):
            loaded = load(reading, *args, **kwargs)
        check_weights(self, self._dola_source, loaded, reading.names, quantised=self._dola_quantised)
        self._dola_check_lens()
        return loaded

    def _dola_check_lens(self) -> None:
        """Check the lens, only once: a trainer's later weights keep the lens of the earlier ones."""
        if self._dola is not None and self._dola_unread:
            self._dola_unread = False
            self._dola.check_lens(self._dola_source, dtype=self._dola_dtype, quantized=self._dola_quantised)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output [T, d] followed by the captured layers; between pipeline stages IntermediateTensors."""
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        if self._dola is None:
            return output
        output = with_earlier_captures(output, kwargs.get("intermediate_tensors"))
        if not isinstance(output, tuple):
            return output
        hidden, layers = output
        return torch.cat([hidden, *layers], dim=-1)

    def compute_logits(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """Scores [N, V]: contrastive for rows whose request asks for DoLa, the model's own for all others."""
        if self._dola is None:
            return super().compute_logits(hidden_states, *args, **kwargs)  # type: ignore[misc, no-any-return]
        scores = self._dola.scores(hidden_states)
        metrics.add_rows(self._dola.counts.take())
        return scores


def _capture(model: Any, layers: tuple[int, ...], architecture: str, width: int) -> None:
    """Make a model's forward return layers, as its class does or carried by its blocks."""
    apart = architecture in CARRIED_APART
    if apart or architecture in CARRIED_WHOLE:
        carry(model, layers, width, residual_apart=apart)
    else:
        hand_out(model, layers, width)


def _without_heads(model: Any) -> dict[str, str]:
    """Non-linear-layer modules that adapters may change, without the head: there an adapter would change mature rows only."""
    modules = getattr(model, "embedding_modules", {})
    return {name: kind for name, kind in modules.items() if kind != "output_embeddings"}


def _state_class(batch: Batch) -> type[Any]:
    from dola.integrations.vllm.runner_v2 import state_class

    return state_class(batch)
