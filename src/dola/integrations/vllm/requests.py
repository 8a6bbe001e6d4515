"""What tells our model whose rows it is given, and checks requests at the door: a logits processor, by entry point.

One class for both of vLLM's model runners, because it loads the entry point for either, and each rejects what is made for the
other alone. As a logits processor it changes scores in one case only: rows that lost their last plausible token to a ban are
decided by the mature scores under the same bans.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates
from vllm.v1.sample.logits_processor.interface import LogitsProcessor as ProcessorV1
from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as ProcessorV2

from dola.errors import ConfigError
from dola.integrations.vllm import engines, plugin
from dola.methods.config import MethodConfig
from dola.serving.bans import decided_by_mature
from dola.serving.rows import Batch, Request, batch_of


class DoLaRequests(ProcessorV1, ProcessorV2):  # type: ignore[misc]
    """Keeps an engine's `Batch` up to date. Runner V1 calls `update_state`, V2 `add_request`."""

    def __init__(self, vllm_config: Any, *_: Any) -> None:
        self._served = None
        self._batch = Batch()
        if "dola" not in (getattr(vllm_config, "additional_config", None) or {}):
            return
        if engines.is_off():
            return
        if (reason := engines.why_not()) is not None:
            raise ConfigError(f"DoLa is not available: {reason}.", hint='leave "dola" out of additional_config')
        self._served = plugin.served_by(vllm_config)
        self._batch = batch_of(vllm_config)
        self._batch.wired = True

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Refuse a request's options in the front end: in a worker, an error would end the engine.

        Raises:
            ConfigError: A ValueError, which vLLM's server answers with HTTP 400 and its words.
        """
        errors, asked = [], engines.engines_of()
        for engine in asked:  # which of them is asked, a class method does not learn
            try:
                _check(sampling_params, engines.config_of(engine, sampling_params.extra_args))
            except ConfigError as error:
                errors.append(error)
        if len(errors) == len(asked):
            raise errors[-1]

    def is_argmax_invariant(self) -> bool:
        """No: a row may be decided by its mature scores."""
        return False

    def _request(self, params: Any, *_: Any) -> Request | None:
        if self._served is None:
            return None
        config: MethodConfig | None = self._served.of_request(params.extra_args)
        return None if config is None else Request.of(config, params)

    # Runner V1: the batch's rows are told before each forward, and the processor runs behind all bans and before penalties.

    def update_state(self, batch_update: Any) -> None:
        """Take note of who joined, left and moved. Before each forward."""
        if self._served is not None:
            process_dict_updates(self._batch.requests, batch_update, self._request)
            self._batch.announce()

    # Runner V2: a request's slot is told once, and the processor runs behind penalties too.

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Take note of who is in a slot. True where the processor may have something to do."""
        self._batch.slots.pop(req_idx, None)
        if (request := self._request(sampling_params)) is None:
            return False
        self._batch.slots[req_idx] = request
        return request.bans

    def apply(self, logits: Tensor, context: Any = None) -> Tensor:
        """Scores [N, V], those of rows without a plausible token replaced. Only runner V2 gives a context."""
        if self._batch.held is None:
            return logits
        rows, mature = self._batch.held
        self._batch.held = None
        requests = [self._batch.requests[row] for row in rows]
        index = torch.tensor(rows, device=logits.device)
        processed = None
        if context is not None:  # biases and penalties are on the contrast already: put them on the mature scores
            batch = logits.clone()
            batch[index] = mature
            for processor in takewhile(lambda processor: processor is not self, self._batch.processors):
                batch = processor.apply(batch, context)
            processed = batch[index]
        logits[index] = decided_by_mature(logits[index], mature, requests, processed=processed)
        return logits


def _check(params: Any, config: MethodConfig | None) -> None:
    """Refuse what vLLM would answer with the model's own numbers, in a request that is decoded with DoLa."""
    wanted = (name for name in ("prompt_logprobs", "prompt_logprob_token_ids") if getattr(params, name, None) is not None)
    if config is not None and (name := next(wanted, None)):
        raise ConfigError(
            f"{name} (`echo` with `logprobs` asks for it, too) was given for a request that is decoded with DoLa; "
            "the log-probabilities that vLLM has of a prompt are the model's own.",
            hint='"dola_layers": "off" in this request\'s vllm_xargs gives those; dola.score gives DoLa\'s',
        )
