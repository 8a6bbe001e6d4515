"""What a model of vLLM does under DoLa: its forward hands out the candidate layers, its `compute_logits` the contrast.

    forward          [T, d]  ->  [T, (K+1) d]: the last layer's output, and behind it the captured layers
    (vLLM picks the rows that it wants logits of)
    compute_logits   [N, (K+1) d]  ->  [N, V]: contrastive scores for the rows whose request asks for them

So penalties, grammars, samplers and log-probabilities read the contrast as they read any model's logits. Concatenated, the
layers pass through vLLM's own selection of rows, its compiled graphs and its CUDA graphs as one tensor.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from dola.integrations.vllm.architectures import CARRIED_APART, CARRIED_WHOLE
from dola.integrations.vllm.carried import carry, hand_out, with_earlier_captures
from dola.integrations.vllm.plugin import served_by
from dola.integrations.vllm.readout import VLLMModel
from dola.integrations.vllm.weights import Reading, check_weights, tracks_weights
from dola.serving.decoder import Decoder
from dola.serving.rows import Batch, batch_of


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
            self._dola = Decoder(VLLMModel(self, super().compute_logits), served, batch, width)  # type: ignore[misc]
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
