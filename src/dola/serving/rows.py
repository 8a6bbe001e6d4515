"""Maps the rows of the running batch to requests: written by requests.py, read by the model, one for each engine.

vLLM tells logits processors, not models, which request a row belongs to. Both live in the same process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor

from dola.methods.config import MethodConfig


@dataclass(frozen=True)
class Request:
    """The decoding of one request.

    Attributes:
        config: Its settings.
        lazy: Whether it returns tokens without probabilities, so that a contrast that cannot change the token may be skipped.
        bans: Whether it can ban tokens, so that its mature scores may be needed.
        bias: Its logit bias: token -> number to add to its score.
    """

    config: MethodConfig
    lazy: bool = True
    bans: bool = False
    bias: Mapping[int, float] = field(default_factory=dict)

    @classmethod
    def of(cls, config: MethodConfig, params: Any) -> Request:
        """The request with these SamplingParams."""
        wants_scores = params.logprobs is not None or bool(getattr(params, "logprob_token_ids", None))
        masks = (params.structured_outputs, params.bad_words, params.allowed_token_ids, params.min_tokens, params.logit_bias)
        return cls(config, lazy=config.lazy and not wants_scores, bans=any(masks), bias=params.logit_bias or {})


@dataclass
class Batch:
    """The rows of the next logits.

    Attributes:
        requests: Row -> request, for rows that are contrasted. With speculation, index of a request -> request.
        wired: Whether a logits processor writes here; without one, the model would silently decode without DoLa.
        began: Whether a batch was ever announced: earlier runs are vLLM's profiling.
        pending: Whether the next logits belong to the batch. Later ones in the same step belong to prompts.
        held: Rows whose bans are checked after the contrast, and their mature logits, float32 [R, V].
        counts: With speculation, the number of rows of each request, drafts and bonus; None if each has one.
        slots: Runner V2's slot of a request -> request. Runner V1 knows only rows.
        processors: Runner V2's logits processors in order, including penalties and bans.
    """

    requests: dict[int, Request] = field(default_factory=dict)
    wired: bool = False
    began: bool = False
    pending: bool = False
    held: tuple[list[int], Tensor] | None = None
    counts: list[int] | None = None
    slots: dict[int, Request] = field(default_factory=dict)
    processors: list[Any] = field(default_factory=list)

    def announce(self) -> None:
        """Record that the next logits belong to the current requests."""
        self.began = self.pending = True
        self.held = self.counts = None

    def spread(self, counts: list[int]) -> None:
        """Record that each request has so many rows in the next logits."""
        self.counts = counts

    def take(self) -> dict[int, Request]:
        """The requests of the current logits; none if these belong to prompts."""
        pending, self.pending = self.pending, False
        if not pending:
            return {}
        if self.counts is None:
            return self.requests
        each = [self.requests.get(index) for index, count in enumerate(self.counts) for _ in range(count)]
        return {row: request for row, request in enumerate(each) if request is not None}


def batch_of(vllm_config: Any) -> Batch:
    """The batch of an engine in this process, found by its id: its model and its logits processor share it."""
    return _batches.setdefault(vllm_config.instance_id, Batch())


_batches: WeakValueDictionary[str, Batch] = WeakValueDictionary()
