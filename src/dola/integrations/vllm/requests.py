"""A logits processor that records which request each row belongs to, and checks requests when they arrive.

One class serves both of vLLM's model runners, because vLLM loads the entry point for either, and each rejects a class made only
for the other. As a logits processor it changes scores in only one case: rows that lost their last plausible token to a ban are
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
from dola.integrations.vllm.admission import check
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
            raise ConfigError(f"DoLa is not available: {reason}.", hint='omit "dola" from additional_config')
        self._served = plugin.served_by(vllm_config)
        self._batch = batch_of(vllm_config)
        self._batch.wired = True

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Check a request's options in the front end: in a worker, an error would end the engine.

        Raises:
            ConfigError: An option is not allowed. It is a ValueError, so vLLM's server returns HTTP 400 with its message.
        """
        errors, asked = [], engines.engines_of()
        for engine in asked:  # a class method cannot know which engine the request is for
            try:
                check(sampling_params, engine)
            except ConfigError as error:
                errors.append(error)
        if len(errors) == len(asked):
            raise errors[-1]

    def is_argmax_invariant(self) -> bool:
        """False: a row may be decided by its mature scores."""
        return False

    def _request(self, params: Any, *_: Any) -> Request | None:
        if self._served is None:
            return None
        config: MethodConfig | None = self._served.of_request(params.extra_args)
        return None if config is None else Request.of(config, params)

    # Runner V1 reports the batch's rows before each forward pass; the processor runs after all bans and before penalties.

    def update_state(self, batch_update: Any) -> None:
        """Record the requests that joined, left or moved. Called before each forward pass."""
        if self._served is not None:
            process_dict_updates(self._batch.requests, batch_update, self._request)
            self._batch.announce()

    # Runner V2 reports a request's slot once; the processor also runs after penalties.

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """Record the request of a slot. Returns True if the processor may have work to do."""
        self._batch.slots.pop(req_idx, None)
        if (request := self._request(sampling_params)) is None:
            return False
        self._batch.slots[req_idx] = request
        return request.bans

    def apply(self, logits: Tensor, context: Any = None) -> Tensor:
        """Scores [N, V], with rows without a plausible token replaced. Only runner V2 gives a context."""
        if self._batch.held is None:
            return logits
        rows, mature = self._batch.held
        self._batch.held = None
        requests = [self._batch.requests[row] for row in rows]
        index = torch.tensor(rows, device=logits.device)
        processed = None
        if context is not None:  # the contrast already has biases and penalties: apply them to the mature scores too
            batch = logits.clone()
            batch[index] = mature
            for processor in takewhile(lambda processor: processor is not self, self._batch.processors):
                batch = processor.apply(batch, context)
            processed = batch[index]
        logits[index] = decided_by_mature(logits[index], mature, requests, processed=processed)
        return logits
