"""The parts of a causal language model that DoLa uses: its blocks, and the readout from residual stream to logits.

They are found by structure, not by architecture name, so that a new family needs no code here. Nearly all decoders share
this structure:

    embeddings -> blocks[0] .. blocks[N-1] -> final norm -> (projection) -> head -> (soft-cap or scale) -> logits
                  |________ candidates ________|            |____________________ readout ___________________|

A wrong guess is always detected: the first forward pass compares the readout of the last block with the model's logits.
For model types that need more than structure, see `adapters.py` and `register_anatomy`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dola import native
from dola.errors import ModelError, ReadoutError
from dola.methods.layers import candidate_layers
from dola.model.adapters import register_anatomy, registered_anatomy
from dola.model.discovery import parts_of_structure, transform_attributes
from dola.model.places import describe_hooks, foreign_hooks, readers_of
from dola.model.readout import Chain, Cut, Part, Readout, Scale, SoftCap
from dola.model.wrappers import causal_lm, unwrap

__all__ = ["READOUT_TOLERANCE", "Anatomy", "Scale", "SoftCap", "register_anatomy", "unwrap"]

READOUT_TOLERANCE = {torch.float64: 1e-6, torch.float32: 5e-3, torch.bfloat16: 5e-2, torch.float16: 2e-2}
"""Largest |readout(last block) - logits|, relative to the largest logit, that rounding can cause. float32 allows for TF32."""
ROW_TOLERANCE = 0.1
"""Largest allowed change of a row's logits, relative to the largest one, next to a row a hundred times larger. Heads that round
all rows by one scale lose the row; LLM.int8(), which multiplies large values separately, stays far below."""


@dataclass(frozen=True, eq=False, init=False, kw_only=True)
class Anatomy(Readout):
    """The parts of one model: its blocks, and the readout.

    Attributes:
        lm: The causal-LM module whose forward returns logits, without PEFT or torch.compile wrappers.
        blocks: The N transformer blocks in order. The input of `blocks[j]` is `hidden_states[j]`.
        final_norm: The norm after the last block, or None.
        projection: The part between final norm and head (OPT's project_out), or None.
        head: From hidden size to vocabulary. For BERT-like models, the whole prediction head including its dense layer.
        logit_transform: The model's change to the head's output (soft-cap, scale), or None.
        tied: Whether the head shares the input embedding's weights.
        stream: Merges several streams that blocks pass on (hyper-connections, AltUp) into the residual stream [B, T, d].
            None if blocks pass on the residual stream itself.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> anatomy = dola.Anatomy.of(model)
        >>> anatomy.num_layers, anatomy.tied
        (30, True)
        >>> anatomy.candidates("last:3")
        (27, 28, 29)
    """

    lm: Any
    blocks: tuple[nn.Module, ...]
    tied: bool = False
    stream: Part | None = None

    def __init__(  # by hand, because a dataclass puts the fields of its base first
        self,
        lm: Any,
        blocks: tuple[nn.Module, ...],
        final_norm: Part | None,
        projection: Part | None,
        head: Part,
        logit_transform: Part | None = None,
        tied: bool = False,
        stream: Part | None = None,
    ) -> None:
        super().__init__(final_norm, projection, head, logit_transform)
        vars(self).update(lm=lm, blocks=blocks, tied=tied, stream=stream)

    @property
    def num_layers(self) -> int:
        """N, the number of blocks, and the index of the mature layer."""
        return len(self.blocks)

    def candidates(self, layers: str | Iterable[object]) -> tuple[int, ...]:
        """The candidate layers that `layers` selects in this model, see `candidate_layers`.

        Raises:
            LayersError: This model does not have these layers.
        """
        return candidate_layers(layers, self.num_layers, tied=self.tied)

    @cached_property
    def head_share(self) -> float:
        """The LM head's share of the weights of head and blocks, in (0, 1)."""
        head: int = sum(weight.numel() for weight in getattr(self.head, "parameters", tuple)())
        return head / (head + sum(weight.numel() for block in self.blocks for weight in block.parameters()))

    @classmethod
    def of(cls, model: Any) -> Anatomy:
        """The parts of any model that `AutoModelForCausalLM` loads, also inside wrappers of PEFT or torch.compile.

        A factory registered for the model's type (`register_anatomy`) provides them; otherwise they are found by structure.

        Raises:
            ModelError: The model is an encoder-decoder, or lacks a head or at least two blocks; or a registered factory
                fails.
        """
        lm = causal_lm(model)
        registered = registered_anatomy(lm, cls)
        return cls.by_structure(lm) if registered is None else registered

    @classmethod
    def by_structure(cls, model: Any) -> Anatomy:
        """Like `of`, but without registered factories. A factory that corrects one part can start from this.

        Raises:
            ModelError: See `of`.
        """
        return cls(**parts_of_structure(causal_lm(model)))

    def transform_attributes(self) -> list[tuple[dict[str, Any], str]]:
        """Where the model's forward reads the numbers of its logit transform: a namespace and a name for each."""
        return transform_attributes(self.lm)

    def residual(self, passed: Any) -> Tensor:
        """The residual stream [B, T, d] in a block's input or output."""
        hidden: Tensor = passed[0] if isinstance(passed, (tuple, list)) else passed
        return hidden if self.stream is None else self.stream(hidden)

    @torch.no_grad()
    def readout_error(self, last_hidden: Tensor, logits: Tensor) -> float:
        """Largest difference between the readout of the last block's output and the model's logits, over the largest logit.

        Logits of -inf, which models set for unused tokens, are ignored.
        """
        found, expected = self.readout(last_hidden).to(logits.device).double(), logits.double()
        used = expected.isfinite()
        difference = (found - expected)[used].abs().max().nan_to_num(torch.inf)
        return float(difference / expected[used].abs().max().clamp(min=1e-6))

    def check_readout(self, last_hidden: Tensor, logits: Tensor) -> None:
        """Raise ReadoutError if the readout does not reproduce the model's logits, ModelError if rows affect each other.

        Args:
            last_hidden: The last block's output, in the shape in which candidates are read: rows [R, d], or [B, T, d].
            logits: The model's own logits, of the same leading shape.
        """
        if last_hidden.dim() == 2:
            self._check_rows(last_hidden)
        error = self.readout_error(last_hidden, logits)
        tolerance = READOUT_TOLERANCE.get(logits.dtype, 5e-2)
        if error <= tolerance:
            return
        hooks = describe_hooks(self)
        raise ReadoutError(
            f"The readout found in {type(self.lm).__name__} does not reproduce its logits: relative error {error:.2g}, "
            f"allowed {tolerance:.0e}. Found: {self.describe()}."
            + (f" Other hooks between the last block and the logits: {hooks}." if hooks else ""),
            hint="remove a hook that changes logits or the final state, or put it on a block: blocks are read with their hooks"
            if hooks
            else "name the parts of this architecture: dola.attach(model, ..., anatomy=dola.Anatomy(...))",
        )

    @torch.no_grad()
    def _check_rows(self, hidden: Tensor) -> None:
        """Raise ModelError if the head's logits of a row depend on other rows: then a layer cannot be read out by itself.

        One cause is a head that rounds all its inputs by one scale, derived from the largest of them (int8 activations "per
        tensor"). Next to a row that is a hundred times larger, a row loses nearly all its digits; a head that rounds each row
        separately keeps them. Another cause is a hook that changes some of the rows.
        """
        hooked = foreign_hooks(readers_of(self))
        if native.is_plain_linear(self.head) and not hooked:
            return
        row = self.head_input(hidden).flatten(0, -2)[-1:]
        alone, beside = (self.read_head(rows)[0].double() for rows in (row, torch.cat([row, 100 * row])))
        if alone.isfinite().all() and not (alone - beside).abs().max() <= ROW_TOLERANCE * alone.abs().max():
            if hooked:
                raise ModelError(
                    f"Hooks on {type(self.lm).__name__} make a row's logits depend on other rows: {describe_hooks(self)}.",
                    hint="remove these hooks, or put them on a block",
                )
            raise ModelError(
                f"In the LM head of {type(self.lm).__name__} ({_name(self.head)}) a row's logits depend on other rows, as in "
                "heads that round all rows by one scale: layers cannot be read out through it.",
                hint="exclude the LM head from the quantization, or quantize its activations per token",
            )

    def describe(self) -> str:
        """The parts in one line, for errors and bug reports."""
        parts = {
            "blocks": f"{self.num_layers} x {type(self.blocks[0]).__name__}",
            "final norm": _name(self.final_norm),
            "projection": _name(self.projection),
            "head": _name(self.head),
            "logit transform": _name(self.logit_transform),
            "tied embeddings": "yes" if self.tied else "no",
        }
        if self.stream is not None:
            parts["residual stream from"] = _name(self.stream)
        return ", ".join(f"{part}: {found}" for part, found in parts.items())


def _name(part: Part | None) -> str:
    return "none" if part is None else repr(part) if isinstance(part, (SoftCap, Scale, Cut, Chain)) else type(part).__name__
