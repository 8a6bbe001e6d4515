"""What runs around the modules of a model while a forward reads its layers.

MLX has no hooks, and its models are not compiled as a whole. So three kinds of modules get a class of their own (swap.py):

    blocks        the states that enter the candidate blocks are kept
    final norm    the kept states join the mature ones, as more rows of the batch
    model         what the model made of all rows is split again, and the method computes its scores (session.py)

Whatever lies between the last block and the logits (norm, scales, head, soft-cap) is so the model's own code, run once on all
rows: one head product reads the mature and the premature layers. Nothing depends on values, so mlx-lm's pipelining continues.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mlx.core as mx

from dola.errors import CaptureError, ModelError
from dola.mlx.on_cpu import dense_weight, is_step, product
from dola.mlx.parts import Parts, named
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


class Capture:
    """The calls of one attachment, and what runs around its model's modules.

    Args:
        parts: The parts of the model.
        to_read: Gives the states of a call as the settings read them, and whether they pass the final norm.
        head: Whether what the head itself gives is kept.
    """

    def __init__(self, parts: Parts, to_read: Callable[[Call], tuple[list[mx.array], bool]], *, head: bool) -> None:
        self._parts, self._to_read, self._keeps_head = parts, to_read, head
        self._state = _State()
        self._weight = dense_weight(parts.readout)

    @property
    def call(self) -> Call | None:
        """The call that runs in this thread."""
        return self._state.call

    def put_on(self, swaps: Swaps, layers: Sequence[int]) -> None:
        """Put this around the blocks of these layers and the norms, and around a head whose output is kept or made here."""
        parts = self._parts
        for j, block in enumerate(parts.blocks):
            if j in (*layers, parts.num_layers - 1):
                swaps.around(block, self._capturing(j))
        for norm in parts.norms:
            swaps.around(norm, self._norm)
        if self._keeps_head or self._weight is not None:
            self._put_on_head(swaps)

    def during(self, call: Call, run: Callable[[], mx.array]) -> mx.array:
        """Run a forward whose state is `call`."""
        before, self._state.call = self._state.call, call
        try:
            return run()
        finally:
            self._state.call = before

    def split(self, call: Call, logits: mx.array) -> tuple[mx.array, mx.array]:
        """The mature logits [B, T, V] and those of the layers [K, B, T, V], from what the model made of all rows."""
        count, name = len(call.layers), named(self._parts.model)
        if count and not call.is_stacked:
            raise CaptureError(
                f"No final norm of {name} ran after its last block, so there is nothing to contrast with.",
                hint="use a model of another architecture",
            )
        if logits.ndim != 3 or logits.shape[0] != (1 + count) * call.rows:
            raise ModelError(
                f"{named(self._parts.model)} makes logits of the shape {tuple(logits.shape)} from {1 + count} layers: what "
                "follows its final norm is not done row by row.",
                hint="use a model of another architecture",
            )
        source = call.head if call.head is not None and not call.plain else logits
        premature = source[call.rows :].reshape(count, call.rows, *source.shape[1:])
        return logits[: call.rows].astype(mx.float32), premature.astype(mx.float32)

    def _put_on_head(self, swaps: Swaps) -> None:
        parts = self._parts
        if parts.head is not None:
            swaps.around(parts.head, self._head)
        elif parts.embedding is not None:
            as_linear = parts.embedding.as_linear
            swaps.put(parts.embedding, "as_linear", lambda *args: self._head(as_linear, args, {}))

    def _capturing(self, j: int) -> Callable[..., Any]:
        is_last = j == self._parts.num_layers - 1

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
            f"{named(self._parts.model)} cannot be contrasted: {where} passes on no single residual stream.",
            hint="use a model of another architecture",
        )

    def _norm(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Norm the rows of all layers together, where this is the final norm."""
        call = self._state.call
        if call is None or call.is_stacked or self._parts.num_layers not in call.states:
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
                f"Layer {missing[0]} of {named(self._parts.model)} did not run in this forward, or at other positions.",
                hint="run the model as a whole, on one machine",
            )
        states, normed = self._to_read(call)
        joined = [each.astype(mature.dtype) for each in states]
        if normed:
            return original(mx.concatenate([mature, *joined]), *args[1:], **kwargs)
        return mx.concatenate([original(*args, **kwargs), *joined])

    def _head(self, original: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The head on the rows of all layers. Its output is kept where the model's transform of logits is to be skipped."""
        call = self._state.call
        if call is None or not call.is_stacked:
            return original(*args, **kwargs)
        by_numpy = self._weight is not None and is_step(args[0])
        output = product(args[0], self._weight) if by_numpy else original(*args, **kwargs)
        if self._keeps_head:
            call.head = output
        return output
