"""A model of vLLM with DoLa: its blocks write the candidate layers, its `compute_logits` returns the contrast.

    call             [T, d]  ->  [T, d + 3]: the model's output, and marks that say where each row's layers are
    (vLLM selects the rows whose logits it needs)
    compute_logits   [N, d + 3]  ->  [N, V]: contrastive scores for the rows whose request asks for them

So penalties, grammars, samplers and log-probabilities read the contrast like any model's logits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor

from dola.errors import CaptureError
from dola.integrations.vllm import metrics
from dola.integrations.vllm.capture import CAPTURES, Captures, capture
from dola.integrations.vllm.parts import Parts, parts_of
from dola.integrations.vllm.plugin import served_by
from dola.integrations.vllm.proof import prove
from dola.integrations.vllm.readout import VLLMModel
from dola.integrations.vllm.weights import Reading, check_weights, tracks_weights
from dola.serving.decoder import Decoder
from dola.serving.rows import Batch, batch_of


class DoLaMixin:
    """The first base class, before a model class of vLLM. Without DoLa in the engine's settings it does nothing."""

    _dola: Decoder | None = None
    _dola_checks: bool = False
    """Whether the next load must bring all weights: the first load of an engine with DoLa."""
    _dola_proved: bool = False
    """Whether the proof has run: before the first request, see proof.py."""

    def __init__(self, *, vllm_config: Any, prefix: str = "", **kwargs: Any) -> None:
        with _building() as is_whole:
            super().__init__(vllm_config=vllm_config, prefix=prefix, **kwargs)  # type: ignore[call-arg]
        if is_whole and (served := served_by(vllm_config)) is not None:
            batch = batch_of(vllm_config)
            width = vllm_config.model_config.get_hidden_size()
            self._dola_parts: Parts = parts_of(self, served.num_layers, width)
            self._dola_captures = _captures(served.captured, width, vllm_config)
            capture(self, self._dola_parts, self._dola_captures)
            self._dola_model = VLLMModel(self, super().compute_logits, self._dola_parts)  # type: ignore[misc]
            self._dola = Decoder(self._dola_model, served, batch, width)
            self._dola_batch, self._dola_config = batch, vllm_config
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

    def eval(self) -> Any:
        """As any module's. vLLM's loaders end with it, so an engine that compiles nothing proves the model's parts here."""
        ready = super().eval()  # type: ignore[misc]
        if self._dola is not None and not self._dola_config.compilation_config.mode:
            self._dola_prove()
        return ready

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output [T, d] with marks of its rows; between pipeline stages IntermediateTensors with the captures."""
        if self._dola is None:
            return super().__call__(*args, **kwargs)  # type: ignore[misc]
        from vllm.config import CUDAGraphMode
        from vllm.forward_context import get_forward_context

        captures, context = self._dola_captures, get_forward_context()
        # pieces of CUDA graphs hold `keep` as it was recorded: every row, in the order of tokens
        pieces = context.cudagraph_runtime_mode == CUDAGraphMode.PIECEWISE
        with captures.running(context.attn_metadata, everything=pieces):
            output = super().__call__(*args, **kwargs)  # type: ignore[misc]
            output = self._dola_relayed(output, kwargs.get("intermediate_tensors"))
            if isinstance(output, Tensor):
                output = captures.marked(output)
        if captures.fault is not None and self._dola_proved:
            raise CaptureError(
                f"The blocks of {type(self).__name__} changed what they pass on: {captures.fault}.",
                hint="please report the model and how the engine was started",
            )
        self._dola_prove(kwargs)  # after the first whole forward, which a compiler measures
        return output

    def _dola_relayed(self, output: Any, received: Any) -> Any:
        """The output, with the captures of earlier pipeline stages; a stage that is not the last sends all so far."""
        here = self._dola_parts.here()
        earlier = [layer for layer in self._dola_captures.layers if here and layer < here[0]]
        if received is not None and earlier:
            self._dola_captures.receive(received[CAPTURES], earlier)
        if isinstance(output, Tensor):
            return output
        from vllm.sequence import IntermediateTensors

        if so_far := [layer for layer in self._dola_captures.layers if here and layer <= here[-1]]:
            tokens = len(output["hidden_states"])
            output = IntermediateTensors({**output.tensors, CAPTURES: self._dola_captures.sent(tokens, so_far)})
        return output

    def _dola_prove(self, like: dict[str, Any] | None = None) -> None:
        """Prove the model's parts, once; with the kinds of inputs of a forward, if one has run.

        Raises:
            ModelError: They do not explain what the model returns.
        """
        if self._dola_proved:
            return
        self._dola_proved = True
        run, logits = super().__call__, self._dola_model.logits_in_three_ways  # type: ignore[misc]
        prove(self, self._dola_parts, self._dola_captures, run, self._dola_config, logits, like=like)

    def compute_logits(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """Scores [N, V]: contrastive for rows whose request asks for DoLa, the model's own for all others."""
        if self._dola is None:
            return super().compute_logits(hidden_states, *args, **kwargs)  # type: ignore[misc, no-any-return]
        mature, read = self._dola_captures.split(hidden_states, checked=self._dola_batch.began)
        scores = self._dola.scores(mature, read)
        metrics.add_rows(self._dola.counts.take())
        return scores


_depth = 0
"""How many models are being built, one inside another: a multimodal model builds its language model."""


@contextmanager
def _building() -> Iterator[bool]:
    """Yields whether the model inside is a whole one, and not a part of another."""
    global _depth
    _depth += 1
    try:
        yield _depth == 1
    finally:
        _depth -= 1


def _captures(layers: tuple[int, ...], width: int, vllm_config: Any) -> Captures:
    """Room for the rows of a full batch: vLLM pads batches to the sizes of its graphs."""
    requests = max(vllm_config.scheduler_config.max_num_seqs, vllm_config.compilation_config.max_cudagraph_capture_size or 0)
    trailing = 1 + (getattr(vllm_config.speculative_config, "num_speculative_tokens", None) or 0)
    return Captures(layers, width, requests * trailing, trailing=trailing, dtype=vllm_config.model_config.dtype)


def _without_heads(model: Any) -> dict[str, str]:
    """Non-linear-layer modules that adapters may change, without the head: there an adapter would change mature rows only."""
    modules = getattr(model, "embedding_modules", {})
    return {name: kind for name, kind in modules.items() if kind != "output_embeddings"}


def _state_class(batch: Batch) -> type[Any]:
    from dola.integrations.vllm.runner_v2 import state_class

    return state_class(batch)
