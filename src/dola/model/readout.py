"""The readout of a model: from a residual stream to logits, as the model itself reads its last block.

residual stream [..., d] -> final norm -> (projection) -> head -> (soft-cap or scale) -> logits [..., V]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from dola import native

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig

Part = Callable[[Tensor], Tensor]
"""One part of a readout: a module, or a function of tensors."""


@runtime_checkable
class ReadByKernel(Protocol):
    """An engine's head that can use the kernel."""

    def kernel_product(self, hidden: Tensor) -> native.Product:
        """Logits [..., V] of rows [..., d], and what the kernel found on the way."""


class StateMaps(Protocol):
    """A lens for some candidate layers, see `dola.lens.maps.Maps`."""

    @property
    def final_norm(self) -> bool:
        """Whether mapped states pass the final norm."""

    def __call__(self, hidden: Tensor) -> Tensor:
        """Mapped states, of the shape of `hidden`."""


@dataclass(frozen=True, eq=False)
class Readout:
    """The parts of a model that turn a residual stream into logits.

    Attributes:
        final_norm: The norm after the last block, or None.
        projection: The part between final norm and head (OPT's project_out), or None.
        head: From hidden size to vocabulary. For BERT-like models, the whole prediction head including its dense layer.
        logit_transform: The model's change to the head's output (soft-cap, scale), or None.
    """

    final_norm: Part | None
    projection: Part | None
    head: Part
    logit_transform: Part | None = None

    @cached_property
    def vocabulary(self) -> int:
        """|V|, for estimates of memory. A linear head declares it (packed weights have other rows); otherwise a high guess."""
        return getattr(self.head, "out_features", 0) or len(getattr(self.head, "weight", ())) or 2**18

    def readout(self, hidden: Tensor, *, final_norm: bool = True, logit_transform: bool = True) -> Tensor:
        """Logits [..., V] that the model would give if its last block's output were `hidden` [..., d].

        Args:
            hidden: Residual stream after any block, of any leading shape. Rows do not affect each other.
            final_norm: False skips the final norm only.
            logit_transform: False skips the soft-cap or scale after the head.
        """
        logits = self.read_head(self.head_input(hidden, final_norm=final_norm))
        return logits if self.logit_transform is None or not logit_transform else self.logit_transform(logits)

    def premature(self, hidden: Tensor, config: MethodConfig, maps: StateMaps | None = None) -> Tensor:
        """Logits [..., V] of candidates' states, read out as the configuration says. Arguments: see `candidate_input`."""
        return self.after_head(self.read_head(self.candidate_input(hidden, config, maps)), config)

    def premature_product(self, hidden: Tensor, config: MethodConfig, maps: StateMaps | None = None) -> native.Product:
        """`premature` by the compiled kernel where it suits. The raw head always rounds as the old code does."""
        rows = self.candidate_input(hidden, config, maps)
        if not self.transforms(config):
            return native.Product(self.read_head(rows))
        found = self.product(rows)
        return found if self.logit_transform is None else native.Product(self.logit_transform(found.logits))

    def candidate_input(self, hidden: Tensor, config: MethodConfig, maps: StateMaps | None = None) -> Tensor:
        """The head's input for candidates. Only this function defines how candidates are read.

        Args:
            hidden: States of one layer [..., d], or of all layers of `maps` [K, ..., d].
            config: The settings of a method.
            maps: The configuration's lens for these layers, or None.
        """
        if maps is None:
            return self.head_input(hidden, final_norm=config.final_norm)
        return self.head_input(maps(hidden), final_norm=maps.final_norm)

    def after_head(self, logits: Tensor, config: MethodConfig) -> Tensor:
        """Apply the model's logit transform to the head's output for candidates, unless the configuration skips it."""
        return self.logit_transform(logits) if self.logit_transform is not None and self.transforms(config) else logits

    @staticmethod
    def transforms(config: MethodConfig) -> bool:
        """Whether candidates' logits pass the model's logit transform, as the mature ones do."""
        return not config.raw_head

    def head_input(self, hidden: Tensor, *, final_norm: bool = True) -> Tensor:
        """The head's input if the last block's output is `hidden` [..., d]. Arguments: see `readout`."""
        for step in (self.final_norm if final_norm else None, self.projection):
            if step is not None:
                hidden = step(hidden)
        return hidden

    def read_head(self, rows: Tensor) -> Tensor:
        """The head's logits [..., V] for its input `rows` [..., d].

        The head gets three dimensions, as from the model: compressed-tensors rounds each token of [B, T, d] separately, but all
        rows of a matrix by one scale.
        """
        logits: Tensor = self.head(rows[None])[0] if rows.dim() == 2 else self.head(rows)
        return logits

    def product(self, rows: Tensor) -> native.Product:
        """`read_head` by the compiled kernel if it suits this head."""
        head: Any = self.head
        if self.suits_kernel(rows):
            return native.head_product(head.weight, rows)
        return head.kernel_product(rows) if isinstance(head, ReadByKernel) else native.Product(self.read_head(rows))

    def suits_kernel(self, rows: Tensor) -> bool:
        """Whether the compiled kernel can multiply this head with such rows."""
        head: Any = self.head
        return not torch.compiler.is_compiling() and native.suits(head) and rows.dtype == head.weight.dtype


@dataclass(frozen=True)
class SoftCap:
    """Squashes logits into (-cap, cap), as Gemma 2 does."""

    cap: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Squash logits of any shape."""
        return torch.tanh(logits / self.cap) * self.cap


@dataclass(frozen=True)
class Scale:
    """Multiplies logits by a constant, as Cohere and Granite do."""

    factor: float

    def __call__(self, logits: Tensor) -> Tensor:
        """Scale logits of any shape."""
        return logits * self.factor


@dataclass(frozen=True)
class Cut:
    """Keeps the first logits, where the head's vocabulary is padded."""

    size: int

    def __call__(self, logits: Tensor) -> Tensor:
        """Cut logits [..., V] to [..., size]."""
        return logits[..., : self.size]


@dataclass(frozen=True)
class Chain:
    """Several transforms, one after the other."""

    steps: tuple[Part, ...]

    def __call__(self, logits: Tensor) -> Tensor:
        """Transform logits of any shape."""
        for step in self.steps:
            logits = step(logits)
        return logits
