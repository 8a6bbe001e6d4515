"""What `generate` needs of an attached model beyond its logits: rows decided under masks, and who asks for what.

Under logits processors a plausible set can be emptied: a grammar, bad words or a minimal length bans every plausible token.
What the contrast says of the others is only that they are implausible, so such a row is decided as plain decoding would
decide it: by the same processors applied to the mature logits. A penalty that merely scales scores cannot get there.

This is the one place that replaces methods of a model, on the instance, and only while DoLa is attached: `generate` (to
know that a call is under way, and in which thread) and `_get_logits_processor` (to see the processors of that call).
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.generation import logits_process as builtin

from dola.anatomy import unwrap
from dola.contrast import plausible
from dola.errors import InputError

NEVER_BAN = tuple(
    getattr(builtin, name)
    for name in (
        "EncoderRepetitionPenaltyLogitsProcessor",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
        "ExponentialDecayLengthPenalty",
        "InfNanRemoveLogitsProcessor",
        "LogitNormalization",
        "MinPLogitsWarper",
        "RepetitionPenaltyLogitsProcessor",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "TypicalLogitsWarper",
    )
    if hasattr(builtin, name)
)
"""Processors that always leave at least one plausible token standing, so nothing has to be checked behind them."""

BANNED = -1e4
"""Scores at or below this were set there to ban a token: some processors write -inf, some the lowest float."""


@dataclass
class Generation:
    """One `generate` call in one thread.

    Attributes:
        relative_top: The plausibility threshold in use.
        lazy: Whether the caller sees nothing but tokens, so that a premature readout that cannot change them may be skipped.
        beams: Whether scores reach the processors as log-softmax (beam search) rather than as they are.
        records_logits: Whether the model's own logits are returned, as `output_logits`.
        keeps_rows: Whether a processor of this call can ban tokens, so that the mature logits may be needed.
        scores, mature: The last forward's contrast and the model's own logits, [B, T, V].
        own_logits: The model's own logits of the last position of each forward, float32 [B, V].
    """

    relative_top: float
    lazy: bool = False
    beams: bool = False
    records_logits: bool = False
    keeps_rows: bool = False
    scores: Tensor | None = None
    mature: Tensor | None = None
    own_logits: list[Tensor] = field(default_factory=list)

    def record(self, *, scores: Tensor, mature: Tensor) -> None:
        """Take note of a forward."""
        if self.keeps_rows:
            self.scores, self.mature = scores, mature
        if self.records_logits:
            self.own_logits.append(mature[:, -1].to(copy=True, dtype=torch.float32))

    def mature_rows(self, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """The mature logits [B, V] behind the scores that the processors were given, and which tokens were plausible.

        Found by value among the last forward's positions: speculative decoding processes several positions of one forward,
        and runs its processors over scores of its own that have no mature counterpart (None).
        """
        if self.scores is None or self.mature is None:
            return None
        for position in range(self.scores.shape[1] - 1, -1, -1):
            row, mature = self.scores[:, position], self.mature[:, position].to(scores.dtype)
            if self.beams:
                row, mature = row.log_softmax(dim=-1), mature.log_softmax(dim=-1)
            if row.shape == scores.shape and torch.equal(row.to(scores.device), scores):
                return mature.to(scores.device), plausible(mature, self.relative_top).to(scores.device)
        return None


class _Current(threading.local):
    generation: Generation | None = None


class GenerationDoor:
    """Wraps `generate` of one model instance, until closed."""

    def __init__(self, lm: nn.Module, relative_top: float) -> None:
        self._lm = lm
        self._relative_top = relative_top
        self._current = _Current()
        self._replaced: dict[str, Any] = {}
        if hasattr(lm, "generate"):
            self._replace("generate", self._wrap_generate)
            self._replace("_get_logits_processor", self._wrap_get_logits_processor)

    @property
    def current(self) -> Generation | None:
        """The `generate` call that this thread is in, if any."""
        return self._current.generation

    def close(self) -> None:
        """Put back what was replaced."""
        for name, before in self._replaced.items():
            if before is None:
                delattr(self._lm, name)
            else:
                setattr(self._lm, name, before)
        self._replaced = {}

    def _replace(self, name: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self._replaced[name] = self._lm.__dict__.get(name)
        setattr(self._lm, name, wrap(getattr(self._lm, name)))

    @contextmanager
    def _generating(self) -> Iterator[Generation]:
        outer, generation = self._current.generation, Generation(self._relative_top)
        self._current.generation = generation
        try:
            yield generation
        finally:
            self._current.generation = outer

    def _wrap_generate(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def generate(*args: Any, **kwargs: Any) -> Any:
            self._check_call(args, kwargs)
            with self._generating() as generation:
                output = original(*args, **kwargs)
            if generation.records_logits and getattr(output, "logits", None) is not None:
                output.logits = tuple(generation.own_logits[-len(output.logits) :])
            return output

        return generate

    def _wrap_get_logits_processor(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def get_logits_processor(*args: Any, **kwargs: Any) -> LogitsProcessorList:
            processors: LogitsProcessorList = original(*args, **kwargs)
            config: Any = kwargs.get("generation_config", args[0] if args else None)
            if (generation := self.current) is None:
                return processors
            self._check_config(config)
            returns_dict = bool(config.return_dict_in_generate)
            generation.beams = (config.num_beams or 1) > 1
            generation.records_logits = returns_dict and bool(config.output_logits)
            generation.lazy = not generation.beams and not (returns_dict and (config.output_scores or config.output_logits))
            generation.keeps_rows = any(not isinstance(processor, NEVER_BAN) for processor in processors)
            return MatureFallback(processors, generation) if generation.keeps_rows else processors

        return get_logits_processor

    def _check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None))
        if isinstance(inputs, Tensor) and inputs.shape[-1] == 0:
            raise InputError(
                f"The prompt has no tokens (input_ids of shape {list(inputs.shape)}); at least one is needed.",
                hint="give a prompt, or the tokenizer's beginning-of-sequence token",
            )
        assistant = kwargs.get("assistant_model")
        if assistant is not None and unwrap(assistant) is self._lm:
            raise InputError(
                "assistant_model is the model that DoLa is attached to, so it would draft with the contrast.",
                hint="use another model as assistant, or prompt_lookup_num_tokens=",
            )

    @staticmethod
    def _check_config(config: Any) -> None:
        refused = {
            "guidance_scale": "it runs the model a second time inside a processor, and would mix two contrasts",
            "assistant_early_exit": "it drafts with fewer blocks than the contrast needs",
        }
        for name, why in refused.items():
            if getattr(config, name, None) not in (None, 1, 1.0):
                raise InputError(f"{name}={getattr(config, name)} does not go with DoLa: {why}.", hint=f"leave {name} out")
        if config.return_dict_in_generate and config.output_logits and getattr(config, "prompt_lookup_num_tokens", None):
            raise InputError(
                "output_logits does not go with prompt_lookup_num_tokens under DoLa: the model's own logits of drafted tokens "
                "are not kept.",
                hint="use output_scores, or leave prompt_lookup_num_tokens out",
            )


class MatureFallback(LogitsProcessorList):  # type: ignore[misc]
    """The processors of one `generate` call, with rows that lost their plausible set decided by the mature logits.

    Each processor runs once per step, as it does without DoLa, because grammars keep state. Only when a row loses its last
    plausible token are the processors so far applied to its mature logits too: a mask is carried over as it stands, anything
    else is called again. From there on the row goes the way of all rows.
    """

    def __init__(self, processors: LogitsProcessorList, generation: Generation) -> None:
        super().__init__(processors)
        self._generation = generation

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Scores [B, V] of the next token after all processors; as LogitsProcessorList."""
        found = self._generation.mature_rows(scores)
        if found is None:
            return super().__call__(input_ids, scores, **kwargs)  # type: ignore[no-any-return]
        mature, plausible_tokens = found
        passed: list[_Applied] = []
        alive = torch.ones(len(scores), dtype=torch.bool, device=scores.device)  # rows still decided by the contrast
        for processor in self:
            before = scores.clone()  # some processors write into what they are given
            scores = _apply(processor, input_ids, scores, kwargs)
            passed.append(_Applied(processor, before, scores.clone()))
            if isinstance(processor, NEVER_BAN):
                continue
            lost = alive & _lost_plausible(scores, plausible_tokens)
            if lost.any():
                for step in passed:
                    mature = step.on_mature(input_ids, mature, kwargs)
                passed = []
                scores = torch.where(lost[:, None], mature, scores)
                alive &= ~lost
        return scores


@dataclass
class _Applied:
    """One processor, and what it made of the contrast."""

    processor: LogitsProcessor
    before: Tensor
    after: Tensor

    def on_mature(self, input_ids: Tensor, mature: Tensor, kwargs: dict[str, Any]) -> Tensor:
        changed = self.after != self.before
        if (self.after[changed] <= BANNED).all():  # it did nothing but ban
            return torch.where(changed, self.after, mature)
        return _apply(self.processor, input_ids, mature.clone(), kwargs)


def _apply(processor: Any, input_ids: Tensor, scores: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """One processor, called as its list would call it."""
    return LogitsProcessorList([processor])(input_ids, scores, **kwargs)  # type: ignore[no-any-return]


def _lost_plausible(scores: Tensor, plausible_tokens: Tensor) -> Tensor:
    """Rows [B] in which no plausible token leads any more: all banned, or pushed below the implausible ones."""
    best_plausible = scores.masked_fill(~plausible_tokens, -torch.inf).amax(dim=-1)
    best_other = scores.masked_fill(plausible_tokens, -torch.inf).amax(dim=-1)
    return best_plausible <= best_other
