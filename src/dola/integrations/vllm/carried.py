"""Captures layers of models whose class in vLLM does not return any: the model's own blocks carry them to the final norm.

    hidden_states, residual = layer(positions, hidden_states, residual)        what vLLM's decoders do with every block
    hidden_states, _ = norm(hidden_states, residual)                           and after the last one

Nothing inspects the values between blocks. So blocks pass on a pair instead of hidden states: the hidden states and the
captures so far, [T, d] each. The final norm returns the pair, so that the decoder returns the same as classes that return
layers. Between pipeline stages, captures have their own name. Blocks and norm become instances of subclasses in place, so the
names of parameters, by which weights are loaded, do not change. Modules keep no state, so that vLLM compiles them with the rest
of the decoder.

Classes that return layers need only `hand_out`. Afterwards, and between stages, both kinds are treated alike.

The captures are deliberately concatenated outside of compiled code. Inside, the compiler of torch 2.13 fuses the copies into
the wide tensor with sums of other shapes, recomputes their inputs, and forgets which buffers a custom operator has written to
in between (`SchedulerNode.recompute_size_and_body`): on CPUs, sums then ran before the product that they add.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from dola.errors import ModelError
from dola.integrations.vllm.parts import decoder_of, norm_name

LAYERS = ("layers", "h")
CAPTURES = "dola_captures"
"""The name under which pipeline stages send their captures: [T, k d], in the order of layers."""


class CarryingBlock:
    """The first base class, before a block's own. It captures at the block's input: that of block i is layer i."""

    dola_hidden: int
    """Position of the hidden states among the arguments."""
    dola_residual: int | None
    """Position of the residual to add to them, or None if they are the residual stream themselves."""
    dola_captured: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block with the pair instead of hidden states as input and output."""
        at = self.dola_hidden
        hidden, kept = _unpacked(args[at])
        if self.dola_captured:
            residual = None if self.dola_residual is None else args[self.dola_residual]
            stream = hidden.clone() if residual is None else hidden + residual  # blocks may overwrite their input
            kept = (*kept, stream)
        output = super().forward(*args[:at], hidden, *args[at + 1 :], **kwargs)  # type: ignore[misc]
        hidden, *others = output if isinstance(output, tuple) else (output,)
        carried = (hidden, kept)
        return (carried, *others) if isinstance(output, tuple) else carried


class CarryingNorm:
    """The first base class, before a final norm's own. Called with rows only, as the readout does, it is the plain norm."""

    def forward(self, hidden: Any, *residual: Any) -> Any:
        """The norm's output and the captures as a pair; only the output if this stage captured nothing."""
        hidden, kept = _unpacked(hidden)
        output = super().forward(hidden, *residual)  # type: ignore[misc]
        if not kept:
            return output
        normed, *others = output if isinstance(output, tuple) else (output,)
        carried = (normed, kept)
        return (carried, *others) if isinstance(output, tuple) else carried


class SparingBlock:
    """The first base class, before the first block's own, which makes the block work on a copy of its input.

    Classes that return layers return layer 0 without a copy, and on GPUs norms that add a residual overwrite their input.
    Later layers are new sums, or their blocks have no such norm (Granite).
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the block's."""
        copied = {name: _copied(value) for name, value in kwargs.items()}
        return super().forward(*map(_copied, args), **copied)  # type: ignore[misc]


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) and value.is_floating_point() else value


def _unpacked(carried: Any) -> tuple[Tensor, tuple[Tensor, ...]]:
    return carried if isinstance(carried, tuple) else (carried, ())


def carry(model: Any, captured: tuple[int, ...], width: int, *, residual_apart: bool) -> None:
    """Make a model's forward return pairs: hidden states [T, d], and the layers captured on this stage, [T, d] each.

    The last stage of a pipeline returns the pair; in other stages it is the hidden states of IntermediateTensors.

    Args:
        model: A causal language model of vLLM whose weights are not loaded yet.
        captured: Layers, by the numbers of `hidden_states`, ascending.
        width: d, its hidden size.
        residual_apart: Whether its blocks pass on the residual stream in two parts that are still to be added.

    Raises:
        ModelError: The decoder is not built like those of its architecture.
    """
    from vllm.distributed import get_pp_group

    decoder = decoder_of(model)
    blocks, first, last = _blocks(model), decoder.start_layer, decoder.end_layer
    for index in range(first, last):
        block = blocks[index]
        names = list(inspect.signature(block.forward).parameters)
        _become(block, CarryingBlock)
        block.dola_hidden = names.index("hidden_states")
        block.dola_residual = names.index("residual") if residual_apart else None
        block.dola_captured = index in captured
    if get_pp_group().is_last_rank:
        _become(getattr(decoder, norm_name(decoder)), CarryingNorm)
    _expect_captures(model, width * sum(layer < first for layer in captured))


def with_earlier_captures(output: Any, received: Any) -> Any:
    """A model's output, with the captures of earlier pipeline stages.

    Args:
        output: The output of its forward: hidden states, with or without the layers of this stage; or IntermediateTensors,
            which hold the layers with the hidden states, or under the names of classes that return them.
        received: IntermediateTensors from the stage before, if there is one.

    Returns:
        Output [T, d] and a tuple of layers; for a stage that is not the last, IntermediateTensors that hold only tensors.
    """
    from vllm.model_executor.models.interfaces import EagleModelMixin
    from vllm.sequence import IntermediateTensors

    earlier = (received[CAPTURES],) if received is not None and CAPTURES in received.tensors else ()
    if not isinstance(output, IntermediateTensors):
        hidden, kept = _unpacked(output)
        return hidden, (*earlier, *kept)
    named = [name for name in output.tensors if name.startswith(EagleModelMixin.AUX_HIDDEN_STATE_KEY)]
    tensors = {name: tensor for name, tensor in output.tensors.items() if name not in named}
    tensors["hidden_states"], kept = _unpacked(tensors["hidden_states"])
    if captures := [*earlier, *kept, *map(output.tensors.get, named)]:
        tensors[CAPTURES] = torch.cat(captures, dim=-1)
    return IntermediateTensors(tensors)


def hand_out(model: Any, captured: tuple[int, ...], width: int) -> None:
    """Make a model's forward return layers as its class does, but send them between pipeline stages differently.

    vLLM sends one tensor for each layer, and only those of the stage itself, except for a speculator on runner V2: on CPUs at
    most eight tensors can be sent, and a third stage would lack the layers of the first.

    Args:
        model: A causal language model of vLLM whose class returns layers.
        captured: Layers, by the numbers of `hidden_states`, ascending.
        width: d, its hidden size.

    Raises:
        ModelError: In a pipeline, the class restarts its layer numbers on each stage or does not send layers; or layer 0 is
            captured and the decoder's blocks are not found.
    """
    from vllm.distributed import get_pp_group

    decoder = decoder_of(model)
    if get_pp_group().world_size > 1 and not getattr(decoder, "supports_aux_hidden_states_over_pp", False):
        raise ModelError(
            f"{type(model).__name__} cannot be decoded with DoLa in a pipeline: vLLM's class sends no layers between stages.",
            hint="--pipeline-parallel-size 1, and --tensor-parallel-size for more GPUs",
        )
    model.set_aux_hidden_state_layers(captured)
    if not get_pp_group().is_first_rank:
        decoder._aux_upstream_total_cached = 0  # it need not look for those of earlier stages, which are sent differently
        _expect_captures(model, width * decoder._aux_slot_base_cached)
    if 0 in captured:
        spare_embeddings(model)


def spare_embeddings(model: Any) -> None:
    """Prevent the first block from overwriting layer 0, if the model's class returns it.

    Raises:
        ModelError: The decoder's blocks are not found.
    """
    if decoder_of(model).start_layer == 0:
        _become(_blocks(model)[0], SparingBlock)


def _blocks(model: Any) -> Any:
    decoder = decoder_of(model)
    blocks = next((getattr(decoder, name) for name in LAYERS if hasattr(decoder, name)), None)
    if blocks is None:
        raise ModelError(
            f"{type(model).__name__} has no blocks under the names {', '.join(LAYERS)}.", hint="please report the model"
        )
    return blocks


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
