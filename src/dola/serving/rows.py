"""Which row of the running batch asks for what: written by requests.py, read by the model, one for each engine.

vLLM hands a model rows without saying whose they are. A worker's logits processors are told; both live in one process.
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
    """How one request is decoded.

    Attributes:
        config: Its settings.
        lazy: Whether it gets tokens and no probabilities, so that a contrast that cannot change the token may be skipped.
        bans: Whether it can ban tokens, so that its mature scores may be needed.
        bias: Its logit bias, token -> what is added to its score.
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
    """The rows that the next logits are of.

    Attributes:
        requests: Row -> request, for rows that are contrasted.
        wired: Whether somebody writes here; a model that finds nobody does would decode plainly in silence.
        began: Whether a batch was ever announced: what runs before is vLLM's profiling.
        pending: Whether the next logits are the batch's own. Later ones of the same step are of prompts.
        held: Rows whose bans are looked at after the contrast, and their mature logits, float32 [R, V].
        slots: Runner V2's place of a request -> request. Runner V1 knows rows alone.
        processors: Runner V2's logits processors in their order, penalties and bans among them.
    """

    requests: dict[int, Request] = field(default_factory=dict)
    wired: bool = False
    began: bool = False
    pending: bool = False
    held: tuple[list[int], Tensor] | None = None
    slots: dict[int, Request] = field(default_factory=dict)
    processors: list[Any] = field(default_factory=list)

    def announce(self) -> None:
        """The next logits are of these requests."""
        self.began = self.pending = True
        self.held = None

    def take(self) -> dict[int, Request]:
        """The requests of the logits that are being made: none where these are of prompts."""
        pending, self.pending = self.pending, False
        return self.requests if pending else {}


def batch_of(vllm_config: Any) -> Batch:
    """The batch of an engine in this process, found by its id: its model and its logits processor share it."""
    return _batches.setdefault(vllm_config.instance_id, Batch())


_batches: WeakValueDictionary[str, Batch] = WeakValueDictionary()
