"""The state of one `generate` call on an attached model: rows that masks affect, and the options of the call.

Logits processors can empty a plausible set: a grammar, bad words or a minimal length may ban every plausible token. The
contrast says about other tokens only that they are implausible. So such a row is decided as in plain decoding, by the same
processors applied to the mature logits. A penalty that merely scales scores cannot empty the set.

This is the only module that replaces methods of a model, on the instance and only during a contrasted call:
`_get_logits_processor` and `_get_stopping_criteria`, to observe what runs between forward passes; `_get_candidate_generator`,
to try only drafts that pay off; and `_prepare_generation_config`, to remove `dola_layers` before transformers reads it.
"""

from __future__ import annotations

import copy
import functools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import PromptLookupCandidateGenerator
from transformers.generation import logits_process as builtin

from dola.decoding.changes import Changes
from dola.decoding.drafts import Drafts
from dola.errors import AttachError, InputError
from dola.methods import bans
from dola.methods.method import Method
from dola.model.wrappers import unwrap
from dola.text.encoding import no_tokens


def _builtin(*names: str) -> tuple[type, ...]:
    """The processors of transformers with these names that the installed version has."""
    return tuple(getattr(builtin, name) for name in names if hasattr(builtin, name))


NEVER_BAN = _builtin(
    "EncoderRepetitionPenaltyLogitsProcessor",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinPLogitsWarper",
    "RepetitionPenaltyLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
)
"""Processors after which a plausible token still leads, so that no check is needed."""

ONLY_BAN = _builtin(
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "SuppressTokensLogitsProcessor",
)
"""Processors that only ban tokens. Others may raise an implausible token; with them lazy contrast is off."""

MAY_RUN_MODEL = _builtin("PrefixConstrainedLogitsProcessor", "UnbatchedClassifierFreeGuidanceLogitsProcessor")
"""Processors of transformers that run a model or a function of the caller."""

BANNED = -1e4
"""Scores at or below this mean a banned token: some processors write -inf, some the lowest float."""


MOST_COPIED = 10_000
"""Maximum number of entries of a processor's list or table that still counts as state."""


@dataclass
class Generation:
    """One `generate` call in one thread.

    Attributes:
        lm: The model that generates.
        owner: The session that contrasts in this call.
        method: The method in use.
        drafted: Whether an assistant model drafts.
        lazy: Whether the caller sees only tokens, so that a premature readout that cannot change them may be skipped.
        beams: Whether scores reach the processors as log-softmax (beam search) instead of unchanged.
        records_logits: Whether the model's own logits are returned, as `output_logits`.
        keeps_rows: Whether a processor of this call can ban all tokens of the support, so that the mature logits may be needed.
        scores, mature: The contrast and the model's own logits of the last forward pass, [B, T, V].
        own_logits: The model's own logits at the last position of each forward pass, float32 [B, V].
        broken: Whether scores without a largest finite value have occurred, bool [] on the scores' device.
        may_run_model: Whether a processor or a stopping criterion of this call may run the model; custom ones may.
        aside: Whether processors or stopping criteria are running. A forward pass that one of them makes returns plain logits.
        ran_aside: Whether one of them has made such a forward pass since this was last set to False.
    """

    lm: Any
    owner: Any
    method: Method
    drafted: bool = False
    lazy: bool = False
    beams: bool = False
    records_logits: bool = False
    keeps_rows: bool = False
    scores: Tensor | None = None
    mature: Tensor | None = None
    own_logits: list[Tensor] = field(default_factory=list)
    broken: Tensor | None = None
    may_run_model: bool = False
    aside: bool = False
    ran_aside: bool = False

    @contextmanager
    def stepping_aside(self) -> Iterator[None]:
        """Inside, forward passes of the model in this thread are plain, without compiled code, which would contrast."""
        before, self.aside = self.aside, True
        try:
            with uncompiled() if self.may_run_model else nullcontext():
                yield
        finally:
            self.aside = before

    def is_aside(self) -> bool:
        """Whether a processor makes the current forward pass; records that there was one."""
        self.ran_aside |= self.aside
        return self.aside

    def prepare(self, config: Any) -> None:
        """Read from the call's GenerationConfig what the call returns.

        Raises:
            InputError: The mode of generation would be wrong under DoLa.
        """
        _refuse_modes(config, self.drafted)
        returns_dict = bool(config.return_dict_in_generate)
        self.beams = (config.num_beams or 1) > 1
        self.records_logits = returns_dict and bool(config.output_logits)
        self.lazy = not self.beams and not (returns_dict and (config.output_scores or config.output_logits))

    def record(self, *, scores: Tensor, mature: Tensor) -> None:
        """Record the result of a forward pass."""
        if self.keeps_rows:
            self.scores, self.mature = scores, mature
        if self.records_logits:
            self.own_logits.append(mature[:, -1].to(copy=True, dtype=torch.float32))

    def watch(self, scores: Tensor) -> None:
        """Record, on the device, whether rows [B, V] define no distribution; `check` reads it after the call."""
        broken = ~scores.amax(dim=-1).isfinite().all()
        self.broken = broken if self.broken is None else self.broken | broken

    def check(self) -> None:
        """Raise InputError if `watch` has recorded scores that define no distribution."""
        if self.broken is not None and self.broken:
            raise InputError(
                "The model's logits, or those of a candidate layer, were NaN or infinite in this call: no distribution.",
                hint="look for overflow (float16?) or a broken checkpoint; model(**inputs) on the attached model says where",
            )

    def mature_rows(self, scores: Tensor) -> tuple[Tensor, Tensor] | None:
        """The mature logits [B, V] that belong to the processors' scores, and the plausible tokens.

        They are found by value among the positions of the last forward pass: speculative decoding processes several positions
        of one pass, and also runs its processors on other scores, which have no mature counterpart (None).
        """
        if self.scores is None or self.mature is None:
            return None
        for position in range(self.scores.shape[1] - 1, -1, -1):
            row, mature = self.scores[:, position].to(scores), self.mature[:, position].to(scores)
            if self.beams:
                row, mature = row.log_softmax(dim=-1), mature.log_softmax(dim=-1)
            if row.shape == scores.shape and torch.equal(row, scores):
                return mature, self.method.support(mature)
        return None


class _State:
    generation: Generation | None = None


class _Thread(threading.local, _State):
    """The call that a thread is in."""


_thread, _traced = _Thread(), _State()

FOLLOWS_THREADS = tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 13)
"""Whether torch.compile can trace thread-local state. torch 2.11 cannot: there a traced forward uses the last call that began
in any thread."""


def current_generation(lm: Any) -> Generation | None:
    """The contrasted `generate` call of `lm` that this thread is in, if any."""
    state = _traced if torch.compiler.is_compiling() and not FOLLOWS_THREADS else _thread
    generation = state.generation
    return generation if generation is not None and generation.lm is lm else None


def is_aside(lm: Any) -> bool:
    """Whether this thread runs a processor or a stopping criterion of a contrasted call of `lm`, whose forwards are plain."""
    generation = current_generation(lm)
    return generation is not None and generation.aside


def uncompiled() -> AbstractContextManager[None]:
    """Inside, functions that torch.compile has compiled run uncompiled."""
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):
        return nullcontext()
    stance: AbstractContextManager[None] = torch.compiler.set_stance("force_eager")
    return stance


def may_run_model(steps: Iterable[Any]) -> bool:
    """Whether processors or stopping criteria may run a model: custom ones, those that call a function, and guidance."""
    return any(isinstance(step, MAY_RUN_MODEL) or not type(step).__module__.startswith("transformers.") for step in steps)


def is_compiled(lm: Any) -> bool:
    """Whether a model's own call is compiled, by its `compile()` or by `generate`."""
    return getattr(lm, "_compiled_call_impl", None) is not None or hasattr(lm, "_compiled_call")


def run(generation: Generation, generate: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call `generate(*args, **kwargs)` of the model as one contrasted call in this thread."""
    _check_call(generation.lm, args, kwargs)
    if kwargs.get("cache_implementation") == "paged":  # runs in a separate thread, which does not see this call
        return generate(*args, **kwargs)
    generation.drafted = kwargs.get("assistant_model") is not None
    outer, _thread.generation = _thread.generation, generation
    _traced.generation = generation
    try:
        with tapped(generation.lm):
            output = generate(*args, **kwargs)
    finally:
        _thread.generation = _traced.generation = outer
    generation.check()
    if generation.records_logits and getattr(output, "logits", None) is not None:
        output.logits = tuple(generation.own_logits[-len(output.logits) :])
    return output


@dataclass
class _Taps:
    """The shared state of one model's running contrasted calls: the calls, and their changes to the model.

    The model holds it, so that both end together. A global table would keep models alive through their methods.
    """

    changes: Changes
    callers: set[object]

    def __reduce__(self) -> NoReturn:
        raise AttachError("A model cannot be copied or pickled while DoLa decodes with it.", hint="copy it before or after")


_TAPS_NAME = "_dola_taps"
_taps_lock = threading.RLock()  # a generator that is dropped inside `with attach(...)` ends in any thread, this one too


class tapped:  # noqa: N801  used as a function
    """While any thread is inside, the methods of `lm` in _TAPS go through the functions there.

    This is not a `contextmanager`: when a model is deleted with its attachment, Python would resume the generator, which would
    then look for a model that no longer exists.
    """

    def __init__(self, lm: Any) -> None:
        self._lm = lm

    def __enter__(self) -> None:
        try:
            with _taps_lock:
                taps: _Taps = vars(self._lm).get(_TAPS_NAME) or _put_taps(self._lm)
                taps.callers.add(self)
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with _taps_lock:
            taps: _Taps | None = vars(self._lm).get(_TAPS_NAME)
            if taps is not None:
                taps.callers.discard(self)
                if not taps.callers:
                    taps.changes.undo()


def _put_taps(lm: Any) -> _Taps:
    """Wrap the methods that `lm` has with the functions of _TAPS: all of them, or none if one fails."""
    taps = _Taps(Changes(), set())
    try:
        taps.changes.put(lm, _TAPS_NAME, taps)
        for name, tap in _TAPS.items():
            if hasattr(lm, name):  # a custom `generate` may have neither
                taps.changes.put(lm, name, functools.partial(tap, lm, getattr(lm, name)))
    except BaseException:
        taps.changes.undo()
        raise
    return taps


def _get_logits_processor(lm: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> LogitsProcessorList:
    processors: LogitsProcessorList = original(*args, **kwargs)
    generation = current_generation(lm)
    can_ban = [type(processor).__name__ for processor in processors if not isinstance(processor, NEVER_BAN)]
    if generation is None:
        if can_ban and hasattr(lm, "dola"):
            raise InputError(
                f"{', '.join(can_ban)} cannot be used in continuous batching under DoLa: rows that lose all plausible tokens "
                "could not be decided by the mature scores.",
                hint="omit constraints there, or use generate without paged attention",
            )
        return processors  # a plain call in another thread
    if generation.aside:
        return processors  # a plain call by a processor of this one
    generation.prepare(kwargs.get("generation_config", args[0] if args else None))
    generation.lazy &= all(isinstance(processor, NEVER_BAN + ONLY_BAN) for processor in processors)
    generation.keeps_rows = bool(can_ban) and generation.method.rules_out
    generation.may_run_model |= may_run_model(processors)
    return (MatureFallback if generation.keeps_rows else Watch)(processors, generation)


def _prepare_generation_config(lm: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Clear `dola_layers`, for which transformers 5 would look for a decoding method that it no longer has.

    Raises:
        InputError: The call selects another such method.
    """
    prepared = original(*args, **kwargs)
    if current_generation(lm) is not None or hasattr(lm, "dola"):
        config = prepared[0]
        config.dola_layers = None
        _refuse_methods(config)
    return prepared


def _get_candidate_generator(lm: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Limit prompt lookup to drafts that pay off; an assistant model limits itself."""
    candidates, generation = original(*args, **kwargs), current_generation(lm)
    if generation is None or generation.aside or not isinstance(candidates, PromptLookupCandidateGenerator):
        return candidates
    return Drafts(candidates, generation.owner.forward_cost())


def _get_stopping_criteria(lm: Any, original: Callable[..., Any], *args: Any, **kwargs: Any) -> StoppingCriteriaList:
    criteria: StoppingCriteriaList = original(*args, **kwargs)
    generation = current_generation(lm)
    if generation is None or generation.aside:
        return criteria
    generation.may_run_model |= may_run_model(criteria)
    return Criteria(criteria, generation)


_TAPS = {
    "_prepare_generation_config": _prepare_generation_config,
    "_get_logits_processor": _get_logits_processor,
    "_get_candidate_generator": _get_candidate_generator,
    "_get_stopping_criteria": _get_stopping_criteria,
}


def _check_call(lm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    check_not_empty(kwargs.get("input_ids", kwargs.get("inputs", args[0] if args else None)), kwargs.get("inputs_embeds"))
    assistant = kwargs.get("assistant_model")
    if assistant is not None and unwrap(assistant) is lm:
        raise InputError(
            "assistant_model is the model that decodes with DoLa itself, so it would draft with the contrast.",
            hint="use another model as assistant, or prompt_lookup_num_tokens=",
        )


def check_not_empty(input_ids: Any, inputs_embeds: Any = None) -> None:
    """Raise InputError for a prompt of zero tokens, given as ids [B, T] or as embeddings [B, T, d]."""
    for name, given, axis in (("input_ids", input_ids, -1), ("inputs_embeds", inputs_embeds, -2)):
        if isinstance(given, Tensor) and given.shape[axis] == 0 and (name == "inputs_embeds" or inputs_embeds is None):
            raise no_tokens(f" ({name} of shape {list(given.shape)})")


def _refuse_methods(config: Any) -> None:
    """Refuse methods that transformers 5 runs from code on the hub, which it would ask to trust."""
    beams = (config.num_beams or 1) > 1
    names = ("penalty_alpha", "constraints", "force_words_ids", "num_beam_groups")
    asked = {name: getattr(config, name, None) for name in names}
    methods = {
        "penalty_alpha": not beams and not config.do_sample and (asked["penalty_alpha"] or 0) > 0 and (config.top_k or 0) > 1,
        "constraints": asked["constraints"] is not None,
        "force_words_ids": asked["force_words_ids"] is not None,
        "num_beam_groups": beams and (asked["num_beam_groups"] or 1) > 1,
    }
    for name in (name for name, is_asked in methods.items() if is_asked):
        raise InputError(
            f"{name}={asked[name]!r} is not compatible with DoLa: it selects another method of decoding.",
            hint=f"pass {name}=None, or remove it from the generation config",
        )


def _refuse_modes(config: Any, drafted: bool) -> None:
    refused = {
        "assistant_early_exit": "it drafts with fewer blocks than the contrast needs",
        "use_mtp": "its drafts come from extra blocks whose states are not contrasted",
    }
    for name, why in refused.items():
        value = getattr(config, name, None)
        if value is not None and value is not False:
            raise InputError(f"{name}={value} is not compatible with DoLa: {why}.", hint=f"omit {name}")
    drafted = drafted or bool(getattr(config, "prompt_lookup_num_tokens", None))
    if drafted and config.return_dict_in_generate and config.output_logits:
        raise InputError(
            "output_logits is not compatible with drafted tokens (prompt_lookup_num_tokens, assistant_model) under DoLa: the "
            "model's own logits of them are not kept.",
            hint="use output_scores=True, which returns the contrast, or decode without drafts",
        )


class Criteria(StoppingCriteriaList):  # type: ignore[misc]
    """The stopping criteria of one `generate` call. Forward passes that one of them makes are plain."""

    def __init__(self, criteria: StoppingCriteriaList, generation: Generation) -> None:
        super().__init__(criteria)
        self._generation = generation

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Tensor:
        """See `StoppingCriteriaList`: whether each row [B] ends here."""
        with self._generation.stepping_aside():
            return super().__call__(input_ids, scores, **kwargs)  # type: ignore[no-any-return]


class Watch(LogitsProcessorList):  # type: ignore[misc]
    """The processors of one `generate` call, with a check for NaN that neither makes the host wait nor enters compiled code."""

    def __init__(self, processors: LogitsProcessorList, generation: Generation) -> None:
        super().__init__(processors)
        self._generation = generation

    def _watch(self, scores: Tensor) -> None:
        if scores.device.type != "cpu" or is_compiled(self._generation.lm):  # otherwise the forward's hook has checked
            self._generation.watch(scores)

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Scores [B, V] of the next token after all processors; as LogitsProcessorList."""
        self._watch(scores)
        with self._generation.stepping_aside():
            return super().__call__(input_ids, scores, **kwargs)  # type: ignore[no-any-return]


class MatureFallback(Watch):
    """The processors of one `generate` call; the mature logits decide rows that lost their plausible set.

    Two kinds of rows are decided this way: `bans.lost` and `bans.forced`. If a later processor bans the forced token, the
    contrast decides again.

    Each processor runs once per step, as without DoLa, because grammars keep state. Only when such a row occurs are the
    processors so far also applied to its mature logits: a mask is copied unchanged; any other processor is called as a copy in
    its earlier state. Later processors see the mature scores of the row.
    """

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: Any) -> Tensor:
        """Scores [B, V] of the next token after all processors; as LogitsProcessorList."""
        found = self._generation.mature_rows(scores)
        if found is None:
            return super().__call__(input_ids, scores, **kwargs)
        self._watch(scores)
        with self._generation.stepping_aside():
            return self._decide(input_ids, scores, *found, **kwargs)

    def _decide(self, input_ids: Tensor, scores: Tensor, mature: Tensor, plausible_tokens: Tensor, **kwargs: Any) -> Tensor:
        decisive, biased = _Path(mature), _Path(mature)  # with all processors, and without penalties and warpers
        after = scores.clone()  # some processors write into their input
        kept = _Path(after)  # the contrast of forced rows
        lost = forced = decided = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
        for processor in self:
            before, state = after, _copied(processor)
            self._generation.ran_aside = False
            scores = _apply(processor, input_ids, scores, kwargs)
            after = scores.clone()
            step = _Applied(state, before, after, self._generation.ran_aside)
            decisive.steps.append(step)
            kept.steps.append(step)
            if isinstance(processor, NEVER_BAN):
                continue
            biased.steps.append(step)
            lost = lost | (~forced & bans.lost(scores, plausible_tokens))
            if forced.any() or step.lifts(plausible_tokens):
                forced = ~lost & bans.forced(biased.follow(input_ids, kwargs), plausible_tokens)
            was, decided = decided, lost | forced
            if not torch.equal(was, decided):
                contrast = torch.where(was[:, None], kept.follow(input_ids, kwargs), scores) if was.any() else scores
                scores = torch.where((decided & ~was)[:, None], decisive.follow(input_ids, kwargs), scores)
                scores = torch.where((was & ~decided)[:, None], contrast, scores)
                kept, after = _Path(contrast), scores.clone()
        return scores


@dataclass
class _Applied:
    """One processor in its state before the call, its result on the contrast, and whether it has run the model."""

    processor: LogitsProcessor
    before: Tensor
    after: Tensor
    ran_model: bool

    def lifts(self, plausible_tokens: Tensor) -> bool:
        """Whether it raised an implausible token, and can also be applied to the mature logits."""
        known = isinstance(self.processor, ONLY_BAN) or self.ran_model
        return not known and bool(((self.after > self.before) & ~plausible_tokens).any())

    def on(self, scores: Tensor, input_ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """Its result on other scores."""
        changed = self.after != self.before
        if (self.after[changed] <= BANNED).all():  # it only banned tokens
            return torch.where(changed, self.after, scores)
        if self.ran_model:
            name = type(self.processor).__name__
            raise InputError(
                f"{name} runs the model, so it cannot be applied to the mature scores as well. A row needs that: its plausible "
                "tokens are banned, or a bias lifts another token.",
                hint=f"omit {name}, or the constraint or bias",
            )
        return _apply(_copied(self.processor), input_ids, scores.clone(), kwargs)


@dataclass
class _Path:
    """Scores, and the processors that have not been applied to them yet."""

    scores: Tensor
    steps: list[_Applied] = field(default_factory=list)

    def follow(self, input_ids: Tensor, kwargs: dict[str, Any]) -> Tensor:
        """The scores with all processors applied."""
        while self.steps:
            self.scores = self.steps.pop(0).on(self.scores, input_ids, kwargs)
        return self.scores


def _apply(processor: Any, input_ids: Tensor, scores: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """Call one processor as its list would."""
    return LogitsProcessorList([processor])(input_ids, scores, **kwargs)  # type: ignore[no-any-return]


def _copied(processor: Any) -> Any:
    """A copy of a processor with its current state: some count their calls, or store past tokens in a list or an object.

    Models, tensors and large tables are shared, because copying them would slow down each step.
    """
    if isinstance(processor, NEVER_BAN + ONLY_BAN):  # without a state
        return processor
    copied = _copy(processor)
    for name, value in vars(copied).items() if copied is not processor else ():
        is_large = isinstance(value, Sized) and len(value) > MOST_COPIED
        if not (is_large or isinstance(value, (Tensor, torch.nn.Module))):
            vars(copied)[name] = _copy(value)
    return copied


def _copy(value: Any) -> Any:
    try:
        return copy.copy(value)
    except Exception:  # generators, locks
        return value
