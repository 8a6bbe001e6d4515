"""Attach DoLa to a model of mlx-lm: its own forward then returns a method's scores.

MLX has no hooks, and its models are not compiled as a whole. So three kinds of modules get a class of their own (swap.py):

    blocks        the states that enter the candidate blocks are kept
    final norm    the kept states join the mature ones, as more rows of the batch
    model         what the model made of all rows is split again, and the method computes its scores

Whatever lies between the last block and the logits (norm, scales, head, soft-cap) is so the model's own code, run once on all
rows: one head product reads the mature and the premature layers. Nothing depends on values, so mlx-lm's pipelining continues.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import mlx.core as mx

from dola.errors import AttachError, CaptureError, InputError, ModelError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import candidate_layers, check_indices
from dola.mlx.check import check_readout
from dola.mlx.lens import maps_of
from dola.mlx.parts import Parts, find, named
from dola.mlx.rules import reads, rule
from dola.mlx.skipping import Skipping
from dola.mlx.swap import Swaps


@dataclass
class Call:
    """The state of one forward.

    Attributes:
        layers: The layers that are read in it.
        plain: How these layers are read: through the norm alone, whatever the settings. For checks.
        states: What entered the blocks, by layer, and the last block's output under N.
        is_stacked: Whether the rows have been joined.
        rows: Rows of the batch, before others joined them.
        head: What the head gave, if the method reads it without the model's transform.
        given: States to read in place of this forward's own: those for the final norm, and those that skip it.
        reads: Whether layers join the rows of the model. Otherwise states are kept, and nothing else happens.
    """

    layers: tuple[int, ...]
    plain: bool = False
    states: dict[int, mx.array] = field(default_factory=dict)
    is_stacked: bool = False
    rows: int = 0
    head: Any = None
    given: tuple[mx.array | None, mx.array | None] | None = None
    reads: bool = True


class _State(threading.local):
    call: Call | None = None


def attach(model: Any, config: MethodConfig | str | Sequence[int] | None = None, *, lazy: bool = False) -> Attachment:
    """Make a model of mlx-lm decode with DoLa until the returned attachment is removed.

    Every forward then returns the scores in place of the logits. So mlx-lm's own `generate`, `stream_generate`,
    `batch_generate` and server decode with them.

    Args:
        model: A model that `dola.mlx.load` or `mlx_lm.load` gave.
        config: A DoLaConfig or another method's settings, or just the `layers` of DoLa. Default: "high".
        lazy: Skip the layers in steps whose choice they cannot change. For callers that use the scores only to choose a token.

    Returns:
        The attachment: a context manager with `.remove()`, also available as `model.dola`.

    Raises:
        AttachError: DoLa is attached to this model already.
        ModelError: The model's parts are not found, or it is not a model of MLX.
        LayersError: The model does not have these layers.
        LensError: The lens belongs to another model.

    Examples:
        >>> import mlx_lm
        >>> model, tokenizer = dola.mlx.load("mlx-community/SmolLM2-135M-Instruct")
        >>> with dola.mlx.attach(model, "high"):
        ...     text = mlx_lm.generate(model, tokenizer, "The capital of France is", max_tokens=2)
    """
    parts = find(model)
    return Attachment(parts, as_config(config, parts), lazy=lazy)


def as_config(config: MethodConfig | str | Sequence[int] | None, parts: Parts) -> MethodConfig:
    """The configuration for a user's `config` or bare `layers`. Raises LayersError for layers that the model lacks."""
    if isinstance(config, MethodConfig):
        return config
    if config is None:
        return DoLaConfig()
    return DoLaConfig(config if isinstance(config, str) else check_indices(config, parts.num_layers))


class Attachment:
    """DoLa on a model of mlx-lm.

    Attributes:
        config: The configuration in use.
        layers: The candidate layers in this model, in Hugging Face's numbering.
        parts: The parts of the model.
        skipping: The steps that skip the layers, and how many did; None unless it is lazy.
    """

    def __init__(self, parts: Parts, config: MethodConfig, *, lazy: bool = False) -> None:
        self.parts, self.config = parts, config
        self.layers = candidate_layers(config.layers, parts.num_layers, tied=parts.tied)
        self._rule = rule(config, (*self.layers, parts.num_layers))
        self._scores = lambda mature, premature: self._rule(mature, premature)[0]
        # On a CPU MLX starts the C++ compiler for each new shape of a compiled function, and each prompt has a new one.
        self._step = mx.compile(self._scores) if mx.default_device() == mx.gpu else self._scores
        self._maps = maps_of(parts, config, self.layers)
        self._reads, self._is_checked = reads(config), False
        self.skipping = Skipping(self) if lazy and config.lazy else None
        self._state, self._swaps = _State(), Swaps()
        if (other := vars(parts.model).get("dola")) is not None:
            raise AttachError(
                f"{type(parts.model).__name__} has DoLa attached already: {other!r}.", hint="call model.dola.remove() first"
            )
        try:
            self._change_model()
        except BaseException:
            self._swaps.undo()
            raise

    def _change_model(self) -> None:
        parts, swaps = self.parts, self._swaps
        swaps.put(parts.model, "dola", self)
        swaps.around(parts.model, self._forward)
        for j, block in enumerate(parts.blocks):
            if j in (*self.layers, parts.num_layers - 1):
                swaps.around(block, self._capturing(j))
        for norm in parts.norms:
            swaps.around(norm, self._norm)
        if self.config.raw_head:
            self._keep_head()

    def _keep_head(self) -> None:
        """Keep what the head itself gives, for readouts that skip the model's transform of logits."""
        parts = self.parts
        if parts.head is not None:
            self._swaps.around(parts.head, self._head)
        elif parts.embedding is not None:
            as_linear = parts.embedding.as_linear
            self._swaps.put(parts.embedding, "as_linear", lambda *args: self._head(as_linear, args, {}))

    def remove(self) -> None:
        """Restore the model. Further calls do nothing."""
        self._swaps.undo()

    def __enter__(self) -> Attachment:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.remove()

    def __repr__(self) -> str:
        layers = ", ".join(map(str, self.layers))
        return f"<dola on {type(self.parts.model).__name__}: layers {layers} of {self.parts.num_layers}, {self.config}>"

    def weights(self, mature: mx.array, premature: mx.array) -> mx.array:
        """How much each layer counts, [K+1, ...], the mature one last."""
        return self._rule(mature, premature)[1]

    def read(self, run: Callable[[], mx.array], layers: Sequence[int], *, plain: bool = False) -> tuple[mx.array, mx.array]:
        """Run a forward, and give the mature logits [B, T, V] and those of these layers [K, B, T, V].

        Args:
            run: The model's own forward.
            layers: The layers.
            plain: Read them through the final norm, whatever the settings say.
        """
        call = Call(tuple(layers), plain)
        return self._split(call, self._during(call, run))

    def states(self, tokens: mx.array) -> dict[int, mx.array]:
        """The residual streams [B, T, d] of the candidate layers and of the last one, in a forward without a cache.

        Args:
            tokens: int [B, T].
        """
        call = Call(self.layers, reads=False)
        self._during(call, lambda: self.parts.model(tokens))
        return call.states

    def end(self, normed: mx.array | None, raw: mx.array | None) -> tuple[mx.array, mx.array | None]:
        """The logits of states [R, n, d], made by what the model does after its blocks.

        A short forward of other tokens carries the states: the model's own code follows its blocks nowhere else.

        Args:
            normed: States that pass the final norm, or None.
            raw: States that skip it, or None; they follow the others.

        Returns:
            Logits [R, n, V], and what the head itself gave if the configuration reads that.
        """
        given = normed if normed is not None else raw
        assert given is not None
        call = Call((), given=(normed, raw))
        logits = self._during(call, lambda: self.parts.model(mx.zeros((1, given.shape[1]), mx.int32)))
        return logits.astype(mx.float32), None if call.head is None else call.head.astype(mx.float32)

    def scores(self, mature: mx.array, premature: mx.array) -> mx.array:
        """The method's scores [..., V] from mature logits [..., V] and those of its layers [K, ..., V]."""
        return (self._step if mature.shape[1] == 1 else self._scores)(mature, premature)

    def with_states(self, run: Callable[[], mx.array]) -> tuple[mx.array, Call]:
        """The model's own logits in float32, and the call that kept the states of the candidate layers."""
        call = Call(self.layers, reads=False)
        return self._during(call, run).astype(mx.float32), call

    def to_read(self, call: Call) -> tuple[list[mx.array], bool]:
        """The states [B, T, d] of a call's layers as the settings read them, and whether they pass the final norm."""
        states = [call.states[j] for j in call.layers]
        if call.plain:
            return states, True
        if self._maps is not None:
            states = self._maps(states)
        return states, self.config.final_norm and (self._maps is None or self._maps.final_norm)

    def plain(self, run: Callable[[], mx.array]) -> mx.array:
        """What a forward gives without the method."""
        return self._during(Call((), reads=False), run)

    def _during(self, call: Call, run: Callable[[], mx.array]) -> mx.array:
        """Run a forward whose state is `call`."""
        before, self._state.call = self._state.call, call
        try:
            return run()
        finally:
            self._state.call = before

    def _split(self, call: Call, logits: mx.array) -> tuple[mx.array, mx.array]:
        count, name = len(call.layers), named(self.parts.model)
        if count and not call.is_stacked:
            raise CaptureError(
                f"No final norm of {name} ran after its last block, so there is nothing to contrast with.",
                hint="use a model of another architecture",
            )
        if logits.ndim != 3 or logits.shape[0] != (1 + count) * call.rows:
            raise ModelError(
                f"{named(self.parts.model)} makes logits of the shape {tuple(logits.shape)} from {1 + count} layers: what "
                "follows its final norm is not done row by row.",
                hint="use a model of another architecture",
            )
        source = call.head if call.head is not None and not call.plain else logits
        premature = source[call.rows :].reshape(count, call.rows, *source.shape[1:])
        return logits[: call.rows].astype(mx.float32), premature.astype(mx.float32)

    def _forward(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's forward, with scores in place of logits."""
        model = self.parts.model
        if model.training:
            raise InputError("The model is in training mode; DoLa decodes with dropout off.", hint="call model.eval()")
        if self._state.call is not None:  # a forward of the check, or one that reads layers
            return original(*args, **kwargs)
        if not self._is_checked:
            check_readout(self, _tokens(args, kwargs))
            self._is_checked = True
        if not self._reads:
            return original(*args, **kwargs)
        run = functools.partial(original, *args, **kwargs)
        if self.skipping is not None and self.skipping.applies(_shape(args, kwargs)):
            return self.skipping.scores(run)
        return self.scores(*self.read(run, self.layers))

    def _capturing(self, j: int) -> Callable[..., Any]:
        is_last = j == self.parts.num_layers - 1

        def run(original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            call = self._state.call
            if call is None:
                return original(*args, **kwargs)
            if j in call.layers:
                call.states[j] = self._state_in((*args, *kwargs.values()), f"block {j}")
            output = original(*args, **kwargs)
            if is_last:
                call.states[j + 1] = self._state_in(output if isinstance(output, (tuple, list)) else (output,), f"block {j}")
            return output

        return run

    def _state_in(self, values: Sequence[Any], where: str) -> mx.array:
        """The residual stream among what a block is given or gives: the first array [B, T, d]."""
        for value in values:
            if isinstance(value, mx.array) and value.ndim == 3:
                return value
        raise ModelError(
            f"{named(self.parts.model)} cannot be contrasted: {where} passes on no single residual stream.",
            hint="use a model of another architecture",
        )

    def _norm(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Norm the rows of all layers together, where this is the final norm."""
        call = self._state.call
        if call is None or call.is_stacked or self.parts.num_layers not in call.states:
            return original(*args, **kwargs)
        if not call.reads:
            return original(*args, **kwargs)
        call.is_stacked, mature = True, args[0]
        if call.given is not None:
            normed, raw = call.given
            rows = [] if normed is None else [original(normed.astype(mature.dtype), *args[1:], **kwargs)]
            return mx.concatenate(rows if raw is None else [*rows, raw.astype(mature.dtype)])
        call.rows = mature.shape[0] if mature.ndim == 3 else 0
        if missing := [j for j in call.layers if j not in call.states or call.states[j].shape != mature.shape]:
            raise CaptureError(
                f"Layer {missing[0]} of {named(self.parts.model)} did not run in this forward, or at other positions.",
                hint="run the model as a whole, on one machine",
            )
        states, normed = self.to_read(call)
        joined = [each.astype(mature.dtype) for each in states]
        if normed:
            return original(mx.concatenate([mature, *joined]), *args[1:], **kwargs)
        return mx.concatenate([original(*args, **kwargs), *joined])

    def _head(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = original(*args, **kwargs)
        if self._state.call is not None and self._state.call.is_stacked:
            self._state.call.head = output
        return output


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tokens [B, T] of a forward."""
    return args[0] if args else kwargs.get("inputs")


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    return tuple(getattr(_tokens(args, kwargs), "shape", ()))
