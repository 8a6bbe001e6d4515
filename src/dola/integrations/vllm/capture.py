"""Captures layers of any model of vLLM: blocks write the rows whose logits are wanted into a buffer.

    block(positions, hidden, residual)     first  dola::keep(hidden, residual, slot): buffer[slot] = (hidden + residual)[rows]
    the last block                         also after it: its output is what the final norm reads (proof.py)

`dola::keep` is a custom operator, as vLLM's attention is one that writes its cache: opaque to torch.compile. Pieces of CUDA
graphs record what it does to a whole batch, so all rows are kept there.
So models return what their classes return, and nothing depends on it. The operator declares that it changes `hidden`, which it
does not: a compiler drops operators that neither return nor change anything, and keeps the order of those that do.

The rows are known before a forward: the last tokens of each request. vLLM then chooses rows of the model's output, and does not
say which. So the output has three more columns, with the place of each row in the buffer (`Captures.marked`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dola.errors import CaptureError, ModelError
from dola.integrations.vllm.parts import Parts

CAPTURES = "dola_captures"
"""The name under which pipeline stages send their captures: [T, k d], in the order of layers."""
COLUMNS = 3
"""Columns that name a place in the buffer, in base 256: bfloat16 holds whole numbers up to 256 exactly."""

_running: list[Captures] = []
"""The captures of the forward that runs now."""


class Captures:
    """The captured rows of one engine's running batch.

    Args:
        layers: Layers, by the numbers of `hidden_states`, ascending. The last block's output has the two slots after them.
        width: d.
        rows: Number of rows to make room for: those of a full batch.
        trailing: How many of a request's last tokens have logits.
        dtype: The model's dtype.
        device: The model's device.
    """

    def __init__(
        self, layers: Sequence[int], width: int, rows: int, *, trailing: int = 1, dtype: torch.dtype, device: Any = None
    ) -> None:
        self.layers, self.width, self.trailing = tuple(layers), width, trailing
        self.buffer = torch.zeros(len(self.layers) + 2, rows, width, dtype=dtype, device=device)
        self.output = len(self.layers)
        self.apart = True
        """Whether a residual that blocks take is still to be added. Cohere's blocks have added it. Set by the proof."""
        self.fault: str | None = None
        self._rows: Tensor | None = None

    @contextmanager
    def running(self, metadata: Any, *, everything: bool = False) -> Iterator[None]:
        """Keep rows of the forwards inside.

        Args:
            metadata: vLLM's attention metadata of the forward; None while vLLM measures memory.
            everything: Whether to keep all rows.
        """
        starts = None if everything else query_starts(metadata)
        if metadata and starts is None and not everything and self.buffer.is_cuda:
            raise CaptureError(
                "No kind of attention of this engine reports where requests start, which CUDA graphs need.",
                hint="another --attention-backend, for instance FLASH_ATTN or TRITON_ATTN",
            )
        self._rows = None if starts is None else last_rows(starts, self.trailing)
        self._capacity = None if everything or metadata is not None else self.buffer.shape[1]
        _running.append(self)
        try:
            yield
        finally:
            _running.pop()

    def keep(self, hidden: Tensor, residual: Tensor | None, slot: int) -> None:
        """Write the wanted rows of a residual stream into a slot."""
        if hidden.shape[-1] != self.width or (residual is not None and residual.shape != hidden.shape):
            other = "" if residual is None else f" and {list(residual.shape)}"
            self.fault = f"they pass on tensors of shape {list(hidden.shape)}{other}, not rows of {self.width} numbers"
            return
        states = self._chosen(hidden)
        if slot == self.output:  # for the proof: without a residual, too
            self._write(states, slot + 1)
        if residual is not None and (self.apart or slot == self.output):
            states = states + self._chosen(residual)
        self._write(states, slot)

    def _write(self, states: Tensor, slot: int) -> None:
        if len(states) > self.buffer.shape[1]:
            self.buffer = self.buffer.new_zeros(len(self.buffer), len(states), self.width)
        self.buffer[slot, : len(states)] = states

    def _chosen(self, states: Tensor) -> Tensor:
        """The wanted rows of states [..., d]."""
        states = states.reshape(-1, self.width)
        rows = self._wanted(len(states))
        return states[: self._capacity] if rows is None else states.index_select(0, rows)

    def _wanted(self, tokens: int) -> Tensor | None:
        """The rows to keep of a forward of so many tokens; None for all, as where each request has one."""
        return None if self._rows is None or len(self._rows) >= tokens else self._rows

    def marked(self, hidden: Tensor) -> Tensor:
        """A model's output [T, d] with the columns that name each row's place: [T, d + 3]; 0 if the row was not kept."""
        tokens = len(hidden)
        places = torch.zeros(tokens, dtype=torch.int64, device=hidden.device)
        if (rows := self._wanted(tokens)) is not None:
            places[rows] = torch.arange(1, len(rows) + 1, device=hidden.device)
        else:
            kept = min(tokens, self._capacity or tokens)
            places[:kept] = torch.arange(1, kept + 1, device=hidden.device)
        digits = torch.stack([places // 65536, places // 256 % 256, places % 256], dim=-1)
        return torch.cat([hidden, digits.to(hidden.dtype)], dim=-1)

    def split(self, marked: Tensor, *, checked: bool) -> tuple[Tensor, Callable[[int, Tensor], Tensor]]:
        """Rows of a model's output, and a function that reads a layer's states of some of them.

        Args:
            marked: Rows [N, d + 3] of the output of `marked`.
            checked: Whether rows that were not kept are an error when they are read.

        Raises:
            CaptureError: The rows have another width.
        """
        if marked.shape[-1] != self.width + COLUMNS:
            raise CaptureError(
                f"The model returned rows of {marked.shape[-1]} numbers instead of {self.width} and {COLUMNS} marks.",
                hint="please report the model and how the engine was started",
            )
        hidden, digits = marked[:, : self.width].contiguous(), marked[:, self.width :].round().long()
        places = digits[:, 0] * 65536 + digits[:, 1] * 256 + digits[:, 2] - 1

        def read(layer: int, rows: Tensor) -> Tensor:
            wanted = places[rows]
            if checked:  # on a GPU without waiting for it
                torch._assert_async((wanted >= 0).all(), "dola: rows were contrasted whose layers were not captured")
            kept = self.buffer[self.layers.index(layer)]
            return kept[wanted.clamp(0, len(kept) - 1)]

        return hidden, read

    def sent(self, tokens: int, layers: Sequence[int]) -> Tensor:
        """The captures of some layers for the next pipeline stage, [T, k d]: vLLM sends tensors with a row for each token."""
        rows = self.buffer[[self.layers.index(layer) for layer in layers], :tokens]
        out = rows.new_zeros(tokens, len(layers) * self.width)
        out[: rows.shape[1]] = rows.transpose(0, 1).flatten(1)
        return out

    def receive(self, sent: Tensor, layers: Sequence[int]) -> None:
        """Keep what an earlier pipeline stage has sent."""
        if len(sent) > self.buffer.shape[1] and self._rows is None and self._capacity is None:
            self.buffer = self.buffer.new_zeros(len(self.buffer), len(sent), self.width)
        rows = sent[: self.buffer.shape[1]].view(-1, len(layers), self.width).transpose(0, 1)
        self.buffer[[self.layers.index(layer) for layer in layers], : rows.shape[1]] = rows


def query_starts(metadata: Any) -> Tensor | None:
    """Where each request's tokens start in a forward, [R + 1]; None if no kind of attention reports it.

    Some kinds split requests into parts (local attention): the one with the fewest has whole requests.
    """
    each = metadata.values() if isinstance(metadata, dict) else ()
    found = [starts for one in each if isinstance(starts := getattr(one, "query_start_loc", None), Tensor)]
    return min(found, key=len, default=None)


def last_rows(starts: Tensor, trailing: int) -> Tensor:
    """The rows of each request's last tokens, [R * trailing]. Shorter requests repeat some of theirs."""
    first, last = starts[:-1, None].long(), starts[1:, None].long() - 1
    back = torch.arange(trailing, device=starts.device)
    return torch.maximum(last - back, torch.minimum(first, last)).clamp(min=0).flatten()


class CapturingBlock:
    """The first base class, before a block's own: writes the block's input, and of the last block its output too."""

    dola_hidden: tuple[int, str]
    """Position and name of the hidden states among the arguments."""
    dola_residual: tuple[int, str] | None
    """Position and name of the residual to add to them, or None if they are the residual stream themselves."""
    dola_slot: int | None
    """Where to write the input, if this layer is captured."""
    dola_output: int | None
    """Where to write the output, if this is the last block."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the block's."""
        if self.dola_slot is not None:
            residual = None if self.dola_residual is None else _argument(self.dola_residual, args, kwargs)
            torch.ops.dola.keep(_argument(self.dola_hidden, args, kwargs), residual, self.dola_slot)
        output = super().forward(*args, **kwargs)  # type: ignore[misc]
        if self.dola_output is not None:
            states = output if isinstance(output, tuple | list) else (output,)
            torch.ops.dola.keep(states[0], None if self.dola_residual is None else states[1], self.dola_output)
        return output


def _argument(place: tuple[int, str], args: Any, kwargs: Any) -> Any:
    return args[place[0]] if len(args) > place[0] else kwargs.get(place[1])


def capture(model: Any, parts: Parts, captures: Captures) -> None:
    """Make the blocks of this pipeline stage write the layers that are captured.

    Blocks become instances of subclasses in place, so the names of parameters, by which weights are loaded, do not change.

    Args:
        model: A model of vLLM whose weights are not loaded yet.
        parts: Its parts.
        captures: Where blocks write.

    Raises:
        ModelError: A block takes nothing that could be hidden states.
    """
    here = parts.here()
    for number in here:
        block = parts.blocks[number]
        names = [name for name in inspect.signature(block.forward).parameters if name not in ("args", "kwargs")]
        hidden = next((name for name in names if name.startswith("hidden")), None) or next(
            iter({"x", "inputs"} & {*names}), None
        )
        if hidden is None:
            raise ModelError(
                f"{type(block).__name__}, a block of {type(model).__name__} ({parts.path}), takes {', '.join(names)}: none of "
                "them could be hidden states.",
                hint='omit "dola" from additional_config, or decode it with transformers: dola.generate(model, ...)',
            )
        residual = next((name for name in names if name == "residual"), None)
        capturing: Any = block
        _become(capturing, CapturingBlock)
        capturing.dola_hidden = names.index(hidden), hidden
        capturing.dola_residual = None if residual is None else (names.index(residual), residual)
        capturing.dola_slot = captures.layers.index(number) if number in captures.layers else None
        capturing.dola_output = captures.output if number == len(parts.blocks) - 1 else None
    earlier = [layer for layer in captures.layers if here and layer < here[0]]
    _expect_captures(model, parts.width * len(earlier))


def _become(module: Any, behaviour: type[Any]) -> None:
    own = type(module)
    module.__class__ = type(own.__name__, (behaviour, own), {"__module__": own.__module__, "__doc__": own.__doc__})


def _expect_captures(model: Any, columns: int) -> None:
    """Add a buffer for the captures of earlier stages to those that a pipeline stage receives."""
    if not columns:
        return
    make_empty = model.make_empty_intermediate_tensors

    def with_captures(*args: Any, **kwargs: Any) -> Any:
        tensors = make_empty(*args, **kwargs)
        hidden = tensors["hidden_states"]
        tensors[CAPTURES] = hidden.new_zeros(len(hidden), columns)
        return tensors

    model.make_empty_intermediate_tensors = with_captures


def _keep(hidden: Tensor, residual: Tensor | None, slot: int) -> None:
    if _running:  # a block that something else runs by itself keeps nothing
        _running[-1].keep(hidden, residual, slot)


def _traced(hidden: Tensor, residual: Tensor | None, slot: int) -> None:
    """Nothing: what a compiler runs instead."""


_library = torch.library.Library("dola", "FRAGMENT")  # type: ignore[no-untyped-call]
_library.define("keep(Tensor(a!) hidden, Tensor? residual, int slot) -> ()")  # type: ignore[no-untyped-call]
_library.impl("keep", _keep, "CompositeExplicitAutograd")  # type: ignore[no-untyped-call]
_library.impl("keep", _traced, "Meta")  # type: ignore[no-untyped-call]
