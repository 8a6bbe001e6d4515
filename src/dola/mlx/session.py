"""Attach DoLa to a model of mlx-lm: its own forward then returns a method's scores."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import mlx.core as mx

from dola.errors import AttachError, InputError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import candidate_layers, check_indices
from dola.mlx.capture import Call, Capture
from dola.mlx.check import check_readout
from dola.mlx.lens import maps_of
from dola.mlx.parts import Parts, find
from dola.mlx.rules import reads, rule
from dola.mlx.skipping import Skipping
from dola.mlx.swap import Swaps


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
        self._capture, self._swaps = Capture(parts, self.to_read, head=config.raw_head), Swaps()
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
        self._capture.put_on(swaps, self.layers)

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
        return self._capture.split(call, self._capture.during(call, run))

    def states(self, tokens: mx.array) -> dict[int, mx.array]:
        """The residual streams [B, T, d] of the candidate layers and of the last one, in a forward without a cache.

        Args:
            tokens: int [B, T].
        """
        call = Call(self.layers, reads=False)
        self._capture.during(call, lambda: self.parts.model(tokens))
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
        logits = self._capture.during(call, lambda: self.parts.model(mx.zeros((1, given.shape[1]), mx.int32)))
        return logits.astype(mx.float32), None if call.head is None else call.head.astype(mx.float32)

    def scores(self, mature: mx.array, premature: mx.array) -> mx.array:
        """The method's scores [..., V] from mature logits [..., V] and those of its layers [K, ..., V]."""
        return (self._step if mature.shape[1] == 1 else self._scores)(mature, premature)

    def with_states(self, run: Callable[[], mx.array]) -> tuple[mx.array, Call]:
        """The model's own logits in float32, and the call that kept the states of the candidate layers."""
        call = Call(self.layers, reads=False)
        return self._capture.during(call, run).astype(mx.float32), call

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
        return self._capture.during(Call((), reads=False), run)

    def _forward(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The model's forward, with scores in place of logits."""
        model = self.parts.model
        if model.training:
            raise InputError("The model is in training mode; DoLa decodes with dropout off.", hint="call model.eval()")
        if self._capture.call is not None:  # a forward of the check, or one that reads layers
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


def _tokens(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The tokens [B, T] of a forward."""
    return args[0] if args else kwargs.get("inputs")


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...]:
    return tuple(getattr(_tokens(args, kwargs), "shape", ()))
