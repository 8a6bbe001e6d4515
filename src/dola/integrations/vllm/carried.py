"""Layers of models whose class in vLLM hands out none: their own blocks carry them to the final norm.

    hidden_states, residual = layer(positions, hidden_states, residual)        what vLLM's decoders do with every block
    hidden_states, _ = norm(hidden_states, residual)                           and behind the last one

Nothing looks at what goes from one block to the next. So in place of hidden states it is a pair, of them and of the captures
that were made on the way, [T, d] each, and the final norm passes the pair on: the decoder returns what classes that hand out
layers return. Between pipeline stages, captures go under a name of their own. Blocks and norm get subclasses of their own
classes, in place: the names of parameters, which weights are loaded by, stay as they are. Nothing is kept on a module, so that
vLLM compiles it with the rest of the decoder.

Classes that do hand out layers differ in that alone (`hand_out`): behind it, and between stages, both are treated alike.

The captures are concatenated outside what is compiled, on purpose. Inside, the compiler of torch 2.13 fuses the copies into the
wide tensor with sums of other shapes, recomputes what those read, and forgets which buffers a custom operator has written to
in between (`SchedulerNode.recompute_size_and_body`): on CPUs, sums were then made before the product that they add.
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
"""What stages of a pipeline send their captures under: [T, k d], in the order of layers."""


class CarryingBlock:
    """Comes before the class of a block among the bases. Captures are made at a block's input: that of block i is layer i."""

    dola_hidden: int
    """Place of the hidden states among the arguments."""
    dola_residual: int | None
    """Place of the residual that they have yet to be added to, or None where they are the residual stream themselves."""
    dola_captured: bool

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the block's, with the pair in place of hidden states, in and out."""
        at = self.dola_hidden
        hidden, kept = _unpacked(args[at])
        if self.dola_captured:
            residual = None if self.dola_residual is None else args[self.dola_residual]
            stream = hidden.clone() if residual is None else hidden + residual  # a clone, as blocks may write over their input
            kept = (*kept, stream)
        output = super().forward(*args[:at], hidden, *args[at + 1 :], **kwargs)  # type: ignore[misc]
        hidden, *others = output if isinstance(output, tuple) else (output,)
        carried = (hidden, kept)
        return (carried, *others) if isinstance(output, tuple) else carried


class CarryingNorm:
    """Comes before the class of a final norm. Called with rows alone, as the readout does, it is the plain norm."""

    def forward(self, hidden: Any, *residual: Any) -> Any:
        """The norm's output, and the captures, as a pair; alone, where nothing was captured on this stage."""
        hidden, kept = _unpacked(hidden)
        output = super().forward(hidden, *residual)  # type: ignore[misc]
        if not kept:
            return output
        normed, *others = output if isinstance(output, tuple) else (output,)
        carried = (normed, kept)
        return (carried, *others) if isinstance(output, tuple) else carried


class SparingBlock:
    """Comes before the class of the first block, which then works on a copy of what it is given.

    Classes that hand out layers hand out layer 0 as it stands, and on GPUs norms that add a residual write over their input.
    Later layers are sums, made for the purpose; where they are not (Granite), blocks have no such norm.
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
    """Have a model's forward return pairs: hidden states [T, d], and the layers captured on this stage, [T, d] each.

    On the last stage of a pipeline the pair is what it returns, on others it is the hidden states of IntermediateTensors.

    Args:
        model: A causal language model of vLLM, its weights not loaded yet.
        captured: Layers, by the numbers of `hidden_states`, ascending.
        width: d, its hidden size.
        residual_apart: Whether its blocks pass on the residual stream in two parts, still to be added.

    Raises:
        ModelError: A decoder that is not built as its architecture's are.
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
    """What a model hands out, with what earlier pipeline stages captured.

    Args:
        output: What its forward returned: hidden states, with the layers of this stage or alone; or IntermediateTensors, in
            which the layers are with the hidden states, or under the names of classes that hand them out.
        received: IntermediateTensors from the stage before, if there is one.

    Returns:
        Output [T, d] and a tuple of layers; of a stage that is not the last, IntermediateTensors of tensors alone.
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
    """Have a model's forward hand out layers as its class does, but for how they go between pipeline stages.

    vLLM's way is a tensor for each layer, and of the stage itself only, but for a speculator on runner V2: on CPUs no more than
    eight tensors can be sent, and a third stage would lack the layers of the first.

    Args:
        model: A causal language model of vLLM whose class hands out layers.
        captured: Layers, by the numbers of `hidden_states`, ascending.
        width: d, its hidden size.

    Raises:
        ModelError: A pipeline of a class that numbers its layers anew on each stage, or sends none on; a decoder whose blocks
            are not found, where layer 0 is captured.
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
        decoder._aux_upstream_total_cached = 0  # it need not look for those of earlier stages: they do not go its way
        _expect_captures(model, width * decoder._aux_slot_base_cached)
    if 0 in captured:
        spare_embeddings(model)


def spare_embeddings(model: Any) -> None:
    """Keep layer 0, where a model's class hands it out, from being written over by the first block.

    Raises:
        ModelError: A decoder whose blocks are not found.
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
    """The buffers that a pipeline stage receives into: with one for what earlier stages captured."""
    if not columns:
        return
    make_empty = model.make_empty_intermediate_tensors

    def with_captures(*args: Any, **kwargs: Any) -> Any:
        tensors = make_empty(*args, **kwargs)
        hidden = tensors["hidden_states"]
        tensors[CAPTURES] = hidden.new_zeros(len(hidden), columns)
        return tensors

    model.make_empty_intermediate_tensors = with_captures
