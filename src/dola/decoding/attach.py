"""Attach DoLa to a model: hooks that make the model's own forward return contrastive logits.

A forward of an attached model runs these hooks:
    open (pre-hook of the causal LM)   notes the positions whose logits are needed
    -> capture (pre-hooks of the candidate blocks)   stores the residual stream at these positions
    -> read (hooks of the LM head)   reads them out together with the mature rows, where that is cheaper
    -> close (hook of the causal LM)   computes the contrast and replaces the logits with it.
So everything that reads logits works unchanged: greedy, sampling, beams, caches, streaming, pipelines.

Captured states belong to one forward. They are stored in the thread that runs it, never on a module.
"""

from __future__ import annotations

import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from transformers import modeling_utils

from dola import native
from dola.decoding.call import (
    FOLLOWS_THREADS,
    Generation,
    check_not_empty,
    current_generation,
    is_aside,
    is_compiled,
    run,
    tapped,
)
from dola.decoding.changes import Changes
from dola.decoding.compiled import not_compiled_alone
from dola.decoding.cost import forward_cost
from dola.decoding.gradients import check_transforms, without_gradient
from dola.decoding.reading import Reading
from dola.decoding.step import Step
from dola.errors import AttachError, CaptureError, ConfigError, InputError, ModelError
from dola.lens.belongs import maps_of
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import check_indices
from dola.model.anatomy import Anatomy
from dola.model.generation_fields import own_layers
from dola.model.hidden import check_eval
from dola.model.places import Places, Watch, foreign_hooks, last_in, readers_of
from dola.model.wrappers import around, inside

Self = TypeVar("Self", bound="Session")


def attach(
    model: Any, config: MethodConfig | str | Sequence[int] | None = None, *, anatomy: Anatomy | None = None
) -> Attachment:
    """Make `model` decode with DoLa until the returned attachment is removed.

    Every forward then returns the contrast in place of its logits, in every thread that uses the model. `generate` is wrapped:
    if a grammar or bad words ban all plausible tokens of a row, the mature scores decide it.

        with dola.attach(model, "high"):
            out = model.generate(**inputs, repetition_penalty=1.2)

    Args:
        model: Any decoder-only Hugging Face model with a language-modeling head, in eval mode.
        config: A DoLaConfig or another method's settings, or just the `layers` of DoLa: "high", "low", "all", or indices (0 is
            the embedding output). Defaults to the layers in `model.generation_config.dola_layers` if set, otherwise "high".
        anatomy: The parts of the model, if dola cannot find them itself.

    Returns:
        The attachment: a context manager with `.remove()`, also available as `model.dola`.

    Raises:
        AttachError: DoLa is attached to this model already.
        ModelError: The model has no decoder blocks or no head, is an encoder-decoder, or is a wrapper (FSDP, DataParallel); the
            error says where in the wrapper the causal LM is. Any exception leaves the model unchanged.
        LayersError: The model does not have these layers.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> inputs = tokenizer("The capital of France is", return_tensors="pt")
        >>> with dola.attach(model, "high"):
        ...     out = model.generate(**inputs, repetition_penalty=1.2, max_new_tokens=2)
        >>> tokenizer.decode(out[0])
        'The capital of France is Paris.'
    """
    found = Anatomy.of(model) if anatomy is None else anatomy
    return Attachment(found, as_config(config, found), around(model, found.lm), named=anatomy is not None)


def as_config(
    config: MethodConfig | str | Sequence[int] | None, anatomy: Anatomy, *, generation_config: Any = None
) -> MethodConfig:
    """The configuration for a user's `config` or bare `layers`.

    If it is None, the layers are the `dola_layers` of the call's `generation_config`, then of the model's, then "high".

    Raises:
        ConfigError: The layers are not allowed.
    """
    if config is None:
        return _own_config(own_layers(generation_config, getattr(anatomy.lm, "generation_config", None)), anatomy)
    if isinstance(config, MethodConfig):
        return config
    # Check indices here, where the model's depth is known; DoLaConfig alone would give a less precise error.
    return DoLaConfig(config if isinstance(config, str) else check_indices(config, anatomy.num_layers))


def _own_config(layers: Any, anatomy: Anatomy) -> MethodConfig:
    """The DoLaConfig for a generation config's `dola_layers`."""
    if layers is None:
        return DoLaConfig()
    try:
        config = as_config(layers, anatomy)
        anatomy.candidates(config.layers)
    except ConfigError as error:
        raise type(error)(
            f"The generation config's dola_layers cannot be used: {error.message.replace('layers=', 'dola_layers=')}",
            hint='correct it there, or give layers yourself, for instance layers="high"',
        ) from None
    return config


@dataclass
class Call:
    """The state of one forward: the positions that are kept, the states captured there, and what the head has read of them."""

    keep: Any
    attention_mask: Any
    hidden: dict[int, Tensor] = field(default_factory=dict)
    last_block_ran: bool = False
    reading: Reading | None = None
    head_runs: int = 0  # with how many inputs for each position the head runs now, candidates included; 0 while it does not
    positions: Tensor | None = None  # of all tokens in the forward [B, T], for methods that draw
    last_output: Any = None  # the last block's output, kept if a backward pass could follow


class _State:
    call: Call | None = None


class _ThreadState(threading.local, _State):
    """The forward that the current thread is running."""


class Session:
    """The hooks of one configuration on one model.

    Attributes:
        config: The configuration in use.
        layers: The candidate premature layers in this model, in Hugging Face's numbering.
        anatomy: The parts of the model.

    `outer` is the user's model if it wraps `anatomy.lm`, the part that generates.
    """

    def __init__(self, anatomy: Anatomy, config: MethodConfig, outer: nn.Module | None = None, *, named: bool = False) -> None:
        self.anatomy, self.config = anatomy, config
        self.layers = anatomy.candidates(config.layers)
        self._step = Step(anatomy, config, layers=(*self.layers, anatomy.num_layers), maps=maps_of(anatomy, config))
        self._lm, self._named = anatomy.lm, named
        self._arguments = _Arguments(anatomy.lm.forward)
        self._state, self._traced = _ThreadState(), _State()
        self._traced.call = None  # set from the start: an attribute that appears later would make torch compile again
        if (other := getattr(self._lm, "dola", None)) is not None:
            raise AttachError(
                f"{type(self._lm).__name__} has DoLa attached already: {other!r}.",
                hint="call model.dola.remove() first",
            )
        self._forget_compiled_code()
        self._outer, self._changes, self._part_changes = outer, Changes(), Changes()
        try:
            self._change_model()
        except BaseException:
            self._undo()
            raise

    def _change_model(self) -> None:
        """Add the hooks. An exception removes all of them."""
        changes = self._changes
        if self._outer is not None:
            given = _Arguments(self._outer.forward)
            check = _Hook(self, lambda module, args, kwargs: _check_labels(given.of(args, kwargs)("labels")))
            changes.before(self._outer, check, with_kwargs=True)
        changes.before(self._lm, _Hook(self, self._open), with_kwargs=True)
        self._closes = changes.after(self._lm, _Hook(self, self._close), with_kwargs=True, always_call=True)
        self._hook_parts(self.anatomy)

    def _hook_parts(self, anatomy: Anatomy) -> None:
        """Add hooks to the parts of the model, and remember where these parts are."""
        changes, blocks, head = self._part_changes, anatomy.blocks, anatomy.head
        ordered = [self._closes, changes.after(blocks[-1], _Hook(self, self._capture_last))]
        for j in self.layers:
            ordered.append(changes.before(blocks[j], _Hook(self, self._capturer(j)), with_kwargs=True))
        if isinstance(head, nn.Module):
            changes.before(head, _Hook(self, self._before_head))
            changes.after(head, _Hook(self, self._after_head))
        self._ordered: list[tuple[Any, int]] = [(handle.hooks_dict_ref(), handle.id) for handle in ordered]
        self._places = Places(anatomy)
        _ = anatomy.vocabulary  # computed now, because torch.compile cannot trace it
        self._readers = readers_of(anatomy)
        self._others = Watch([*self._places.owners, blocks[-1], *self._readers])
        self._look_at_hooks()

    def _undo(self) -> None:
        self._part_changes.undo()
        self._changes.undo()

    def _keep_up(self) -> None:
        """Adapt to changes that other code made to the model since the last forward: replaced parts, additional hooks.

        Raises:
            AttachError: Other code removed DoLa's hooks.
            ModelError: See `_follow`.
        """
        if self._changes.are_lost() or self._part_changes.are_lost():
            raise AttachError(
                f"Something removed DoLa's hooks from {type(self._lm).__name__}: its logits would be plain.",
                hint="call model.dola.remove(), and attach again",
            )
        if (path := self._places.changed()) is not None:
            self._follow(path)
        for hooks, key in self._ordered:
            last_in(hooks, key)
        if self._others.changed():
            self._look_at_hooks()

    def _look_at_hooks(self) -> None:
        """Note whether other code has hooks that may change what happens between the last block and the logits."""
        self._readers_hooked = bool(foreign_hooks(self._readers))
        self._hooked = self._readers_hooked or bool(foreign_hooks(self._places.owners))
        self._readout_checked = False

    def _follow(self, path: str) -> None:
        """Find the parts of the model again after one of them was replaced.

        Raises:
            ModelError: The caller of `attach` specified the parts, or the number of blocks has changed.
        """
        found = None if self._named else Anatomy.of(self._lm)
        if found is not None and self.anatomy.blocks[-1] not in found.blocks and found.num_layers < self.anatomy.num_layers:
            return  # the list of blocks was shortened, perhaps for one forward: `_check_captures` reports the missing layer
        if found is None or found.num_layers != self.anatomy.num_layers:
            raise self._changed(path)
        self._part_changes.undo()
        self.anatomy = self._step.readout = found
        self.layers = found.candidates(self.config.layers)
        self._step.maps = maps_of(found, self.config)
        self._step.forget_plans()
        self._hook_parts(found)
        self._forget_compiled_code()

    def _changed(self, path: str) -> ModelError:
        name = type(self._lm).__name__
        return ModelError(
            f"{name} was changed with DoLa attached to it: {path}. Its layers would be read by parts that are gone.",
            hint="call model.dola.remove(), and attach again",
        )

    @property
    def rows(self) -> int:
        """Number of positions contrasted so far."""
        return self._step.rows

    @property
    def rows_saved(self) -> int:
        """Number of positions that needed no contrast, because a single token was plausible (`config.lazy`)."""
        return self._step.rows_saved

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the model's own `generate` under this session."""
        self._keep_up()  # also discards compiled code, which cannot adapt to changes of the model
        maps_of(self.anatomy, self.config)  # refuses a lens of other weights: an adapter may have been switched on since
        try:
            return run(Generation(self._lm, self, self._step.method), original, args, kwargs)
        finally:
            self._call = None  # torch runs no hooks after Ctrl-C

    def forward_cost(self) -> Callable[[int], float]:
        """A function from a number of tokens after a cache to the modeled time of their forward, relative to one token."""
        weight = next(self._lm.parameters())
        return functools.partial(
            forward_cost,
            candidates=len(self.layers),
            head_share=self.anatomy.head_share,
            device=weight.device.type,
            dtype=weight.dtype,
        )

    def remove(self) -> None:
        """Take the hooks off."""
        self._undo()
        self._forget_compiled_code()

    def __enter__(self: Self) -> Self:  # typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __reduce__(self) -> NoReturn:
        raise AttachError(
            f"{type(self._lm).__name__} cannot be copied or pickled with DoLa on it.",
            hint="call model.dola.remove() first, and attach to the copy",
        )

    def is_active(self) -> bool:
        """Whether to contrast a forward in this thread. Here: inside this session's own `generate` call."""
        generation = current_generation(self._lm)
        return generation is not None and generation.owner is self and not generation.is_aside()

    def is_concerned(self) -> bool:
        """Whether a hook that runs in this thread belongs to a forward that this session has opened, or may open.

        The open forward is checked first, because torch compiles again when a value that compiled code has read changes. A hook
        that is not traced checks its own thread's forward only: the traced one may belong to another thread.
        """
        call = self._call if torch.compiler.is_compiling() else self._state.call
        return call is not None or self.is_active()

    @property
    def _call(self) -> Call | None:
        """The forward that this thread is running. torch.compile does not track writes to thread-local state while it traces
        (seen in torch 2.11), so a traced forward is stored separately; its state does not exist in the compiled code."""
        if torch.compiler.is_compiling():
            return self._traced.call or self._state.call
        return self._state.call or self._traced.call

    @_call.setter
    def _call(self, call: Call | None) -> None:
        if torch.compiler.is_compiling():
            self._traced.call = call
        else:
            self._state.call = call
            if call is None or not FOLLOWS_THREADS:  # this hook runs outside the compiled code, the next ones inside it
                self._traced.call = call

    def _forget_compiled_code(self) -> None:
        """Discard torch.compile's compiled code: it does not notice that hooks were added or removed."""
        if "torch._dynamo" in sys.modules and self._may_be_compiled():
            torch._dynamo.reset()

    def _may_be_compiled(self) -> bool:
        return is_compiled(self._lm)

    def _open(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Before the forward: refuse arguments that DoLa does not support, and note which positions to keep."""
        given = self._arguments.of(args, kwargs)
        _check_labels(given("labels"))
        check_eval(module)
        check_transforms()
        check_not_empty(given("input_ids"), given("inputs_embeds"))
        if torch.compiler.is_compiling():
            self._check_traced()
        else:
            self._keep_up()
        positions = positions_of(given) if self.config.draws else None
        self._call = Call(given("logits_to_keep"), given("attention_mask"), positions=positions)

    def _check_traced(self) -> None:
        """`_keep_up` for a traced forward: the compiled code stores the current parts, and the hooks stay in place."""
        if self._places.moved():
            raise self._changed("one of the parts that are read")

    def _capturer(self, layer: int) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]:
        def capture(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._keep_hidden(layer, args[0] if args else kwargs["hidden_states"])

        return capture

    def _capture_last(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        call = self._call_of(self.anatomy.num_layers)
        call.last_block_ran = True
        if torch.is_grad_enabled() and not torch.compiler.is_compiling():
            call.last_output = output
        # Also in compiled code: a condition that changes after the readout check would make torch compile again.
        if torch.compiler.is_compiling() or self._hooked or not self._readout_checked:
            self._keep_hidden(self.anatomy.num_layers, output)

    def _call_of(self, layer: int) -> Call:
        """The forward in which a layer runs."""
        if (call := self._call) is None:
            raise CaptureError(
                f"Layer {layer} of {type(self._lm).__name__} ran outside a call of the model, so its logits would be plain.",
                hint=self._hint_outside(),
            )
        return call

    def _keep_hidden(self, layer: int, passed: Any) -> None:
        call = self._call_of(layer)
        # A copy: a view would keep the whole prompt's states alive, and some blocks add to their input in place.
        call.hidden[layer] = select_positions(self.anatomy.residual(passed).detach(), call.keep).clone()

    def _hint_outside(self) -> str:
        """The hint for a part of the model that ran by itself, perhaps through its own `generate`."""
        found = inside(self._lm)
        other = f"attach to {found}" if found else "remove DoLa first"
        return f"call model(...), not model.forward(...) or an inner module, or {other}"

    @torch.no_grad()
    def _close(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        """After the forward: compute the contrast and replace the logits with it."""
        call, self._call = self._call, None
        if output is None or call is None:  # the forward, or the hook before it, raised
            return None
        own_logits = output[0] if isinstance(output, tuple) else output.logits
        logits = own_logits.detach()
        self._check_captures(call, logits)
        generation = current_generation(self._lm)
        scores = self._contrast(call, logits)
        # Where reading a value would make the host wait or break a traced graph, Generation.watch checks instead.
        watched = generation is not None and (scores.device.type != "cpu" or torch.compiler.is_compiling())
        if not watched and not scores.amax(dim=-1).isfinite().all():
            self._explain_not_finite(call, logits, scores)
        if generation is not None:
            generation.record(scores=scores, mature=logits)
        if call.last_output is not None:
            scores = without_gradient(scores, (call.last_output, own_logits, *self._weights_read()))
        if isinstance(output, tuple):
            return (scores, *output[1:])
        output.logits = scores
        return output

    def _weights_read(self) -> Iterator[Tensor]:
        """The weights between the last block and the logits."""
        parts = (self.anatomy.final_norm, self.anatomy.projection, self.anatomy.head)
        return (weight for part in parts if isinstance(part, nn.Module) for weight in part.parameters())

    def _check_captures(self, call: Call, logits: Tensor) -> None:
        for layer in self.layers:
            got = list(call.hidden[layer].shape[:-1]) if layer in call.hidden else None
            if got != list(logits.shape[:-1]):
                what = "did not run" if got is None else f"left positions of shape {got}"
                raise CaptureError(
                    f"Layer {layer} {what} in a forward that returned logits of shape {list(logits.shape)}.",
                    hint="modes that run fewer blocks cannot be contrasted; otherwise please report the model",
                )
        if not call.last_block_ran:
            raise CaptureError(
                f"The last block of {type(self._lm).__name__} did not run, so its logits are not the mature layer's.",
                hint="modes that run fewer blocks cannot be contrasted",
            )
        if (last := call.hidden.pop(self.anatomy.num_layers, None)) is None:
            return
        if self._hooked and logits.isfinite().any():  # others' hooks may depend on anything, even positions and shapes
            self.anatomy.check_readout(last, logits)
        if self._readers_hooked or self._readout_checked:
            return
        row = logits.flatten(0, -2)[-1:]
        if row.amax().isfinite():  # padding may be NaN, and then proves nothing
            self.anatomy.check_readout(last.flatten(0, -2)[-1:], row)
            self._readout_checked = True

    @torch.no_grad()
    def _before_head(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Pass the candidates through the head with the mature rows, if that is cheaper than reading them afterwards. Let the
        compiled kernel read the mature rows in any case."""
        call = self._call
        if call is None or not args or call.head_runs or call.reading is not None or self._readers_hooked:
            return None
        hidden = args[0]
        captures = [call.hidden[layer] for layer in self.layers if layer in call.hidden]
        if len(captures) < len(self.layers) or any(layer.shape[:-1] != hidden.shape[:-1] for layer in captures):
            return None  # the head got other positions; `_close` deals with that
        if self._step.reads_together(hidden, lazy=self._is_lazy()):
            rows = self._step.rows_to_read(hidden, captures)
        elif self._step.reads_mature(hidden):
            rows = hidden[None]
        else:
            return None
        call.head_runs = len(rows)
        if (read := self._step.read_by_kernel(rows)) is not None:
            call.reading = read
            return hidden[:0], *args[1:]  # the kernel has done the module's work
        return rows.flatten(0, 1), *args[1:]

    def _after_head(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        call = self._call
        if call is None or not call.head_runs:
            return None
        inputs, call.head_runs = call.head_runs, 0  # a further run of the head in this forward is the model's own
        if call.reading is None:
            call.reading = self._step.reading(native.Product(output.unflatten(0, (inputs, -1))))
        return call.reading.logits[0]

    def _is_lazy(self) -> bool:
        if torch.compiler.is_compiling():  # a graph skips nothing, and reading the flag would compile a version for each value
            return False
        generation = current_generation(self._lm)
        return self.config.lazy and generation is not None and generation.lazy

    def _contrast(self, call: Call, logits: Tensor) -> Tensor:
        """Scores of all rows of a forward, [..., V], float32 or better."""
        reading = None if call.reading is None else call.reading.of(logits).flat()
        if self._readers_hooked:
            reading = self._read_as_the_model_does(call, logits).flat()
        hidden = [call.hidden[layer].flatten(0, -2).to(logits.device) for layer in self.layers]
        positions = None
        if call.positions is not None:
            positions = select_positions(call.positions[..., None], call.keep).flatten().to(logits.device)
        scores = self._step.scores(logits.flatten(0, -2), hidden, reading, lazy=self._is_lazy(), positions=positions)
        return scores.view(logits.shape)

    def _read_as_the_model_does(self, call: Call, logits: Tensor) -> Reading:
        """Read the candidates one layer at a time, in the model's own shape [B, T, d]. Others' hooks on the norm or the head
        then see what they would see if that layer were the last."""
        read = [self._step.read_layer(call.hidden[layer].to(logits.device), k) for k, layer in enumerate(self.layers)]
        return Reading(torch.stack([logits, *(layer.to(logits) for layer in read)]))

    def _explain_not_finite(self, call: Call, logits: Tensor, scores: Tensor) -> None:
        """Raise for positions without a usable distribution, except padding, which lacks one in some models."""
        broken = ~scores.amax(dim=-1).isfinite()
        if isinstance(call.attention_mask, Tensor) and call.attention_mask.dim() == 2:
            real = select_positions(call.attention_mask[..., None], call.keep)[..., 0].bool()
            if real.shape == broken.shape:
                broken = broken & real.to(broken.device)
        if not broken.any():
            return
        where = broken.nonzero()[0].tolist()
        row = logits[broken][0]
        if row.isnan().any() or not row.amax().isfinite():
            what = "are NaN, infinite or all -inf"
        else:
            name = self.config.method
            what = f"are finite, but those of a candidate layer are not, or the method {name!r} made its scores so,"
        raise InputError(
            f"The model's logits {what} at position {where} ([batch, position] of the logits): they define no distribution.",
            hint="look for overflow (float16?), a broken checkpoint, or an attention mask that hides everything",
        )


@dataclass(frozen=True)
class _Hook:
    """A hook that acts only in its session's forwards.

    Other threads may run forwards while hooks are added and removed; torch may then call a hook with fewer arguments.
    """

    session: Session
    hook: Callable[..., Any]

    @not_compiled_alone
    def __call__(self, module: nn.Module, *arguments: Any) -> Any:
        return self.hook(module, *arguments) if self.session.is_concerned() else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return _nothing  # PEFT copies parts that it trains; `model.dola` refuses a copy of the whole model

    def __reduce__(self) -> NoReturn:
        self.session.__reduce__()


def _nothing(*arguments: Any) -> None:
    """Takes the place of a hook in a copied part."""


def _check_labels(labels: Any) -> None:
    if labels is not None:
        raise InputError(
            "labels= was given: DoLa's scores are not a likelihood to train on, so they have no loss.",
            hint="call the model without labels=, or remove DoLa first: model.dola.remove()",
        )


class Attachment(Session):
    """DoLa on a model, for all its users until removed. `attach` returns it; it is also available as `model.dola`.

    Attributes:
        config: The configuration in use.
        layers: The candidate layers in this model, in Hugging Face's numbering.
        anatomy: The parts of the model.
        rows: Number of positions contrasted so far.
        rows_saved: Number of positions that needed no contrast (`config.lazy`).

    Examples:
        >>> model, tokenizer = dola.load()
        >>> attachment = dola.attach(model, [24, 28])
        >>> attachment.layers, attachment is model.dola
        ((24, 28), True)
        >>> attachment.remove()
    """

    def _change_model(self) -> None:
        lm, changes = self._lm, self._changes
        changes.put(lm, "dola", self)
        if self._outer is not None:
            changes.put(self._outer, "dola", self)
        if hasattr(lm, "generate"):
            changes.put(lm, "generate", functools.wraps(lm.generate)(functools.partial(self.generate, lm.generate)))
            changes.enter(tapped(lm))
        super()._change_model()

    def remove(self) -> None:
        """Restore the model. Further calls do nothing."""
        if self._is_attached():
            super().remove()

    def _is_attached(self) -> bool:
        return vars(self._lm).get("dola") is self

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return f"<dola on {type(self._lm).__name__}: layers {layers} of {self.anatomy.num_layers}, {self.config}>"

    def generate(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the model's own `generate` with the attached layers, which a call cannot change.

        A call from a processor of another call is plain, as its forwards are, unless it sets `dola_layers`.

        Raises:
            InputError: The call, or its generation config, has other `dola_layers` than the attached ones.
        """
        if not self._is_attached():  # the caller kept this `generate` after removal
            return original(*args, **kwargs)
        config = kwargs.get("generation_config", args[1] if len(args) > 1 else None)
        asked = kwargs.pop("dola_layers", None)
        asked = own_layers(config) if asked is None else asked
        if asked is None and is_aside(self._lm):
            return original(*args, **kwargs)
        given = self.config if asked is None else as_config(asked, self.anatomy)
        if given.layers != self.config.layers or (isinstance(asked, MethodConfig) and asked != self.config):
            raise InputError(
                f"dola_layers={asked!r} was given, but DoLa is attached to this model with layers={self.config.layers!r}.",
                hint="omit dola_layers, or call model.dola.remove() and attach with these layers",
            )
        return super().generate(original, *args, **kwargs)

    def is_active(self) -> bool:
        """True except in calls of a call-scoped session that began before this was attached, and in forwards made by the
        processors of a `generate` call."""
        generation = current_generation(self._lm)
        return generation is None or (generation.owner is self and not generation.is_aside())

    def _may_be_compiled(self) -> bool:
        return True  # a torch.compile wrapper cannot be detected from here


class _Arguments:
    """Looks up arguments of a model's forward by name, whether they were passed by position or by keyword."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        parameters = inspect.signature(forward).parameters
        self._positions = {name: position for position, name in enumerate(parameters)}
        self._defaults = {name: p.default for name, p in parameters.items() if p.default is not inspect.Parameter.empty}

    def of(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[str], Any]:
        """A function from an argument's name to its value in this call; if not passed, its default or None."""

        def given(name: str) -> Any:
            position = self._positions.get(name, len(args))
            return args[position] if position < len(args) else kwargs.get(name, self._defaults.get(name))

        return given


def positions_of(given: Callable[[str], Any]) -> Tensor | None:
    """The position of each token of a forward in its own sequence [B, T], without padding; None if the call does not say.

    Args:
        given: A function from an argument's name to its value.
    """
    ids, mask, cache = given("position_ids"), given("attention_mask"), given("past_key_values")
    tokens = given("input_ids") if given("input_ids") is not None else given("inputs_embeds")
    if tokens is None:
        return None
    rows, length = tokens.shape[:2]
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] >= length:
        return (mask.long().cumsum(dim=-1) - 1).clamp(min=0)[:, -length:]
    if isinstance(ids, Tensor) and ids.dim() == 2:
        return ids.expand(rows, length)
    begin = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0
    return torch.arange(begin, begin + length, device=tokens.device).expand(rows, length)


def select_positions(hidden: Tensor, keep: Any) -> Tensor:
    """The positions of `hidden` [B, T, d] that a forward with `logits_to_keep=keep` returns logits for.

    `keep` is the number of last positions (0 means all, as does None for models without the argument), a list or slice of
    positions, or a tensor as in transformers: 1-D indices and, in later versions, indices per row [B, n] or a mask [B, T].
    """
    if keep is None or isinstance(keep, int):
        return hidden[:, -keep:] if keep and hidden.shape[1] > keep else hidden
    if not isinstance(keep, Tensor):
        return hidden[:, keep]
    slice_as_transformers = getattr(modeling_utils, "slice_logits_to_keep", lambda states, index: states[:, index])
    selected: Tensor = slice_as_transformers(hidden, keep.to(hidden.device))
    return selected
