"""What somebody reads who asks for gradients of DoLa's scores: one sentence, where torch would say that they require none.

scores = without_gradient(scores, sources)
scores.sum().backward()    InputError: DoLa decodes and does not train ...
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad

from dola.errors import InputError


def without_gradient(scores: Tensor, sources: Iterable[Any]) -> Tensor:
    """The same scores, from which a backward pass raises InputError where one of the sources requires a gradient.

    Args:
        scores: The scores, detached.
        sources: What they were made from: tensors, or what blocks pass on.
    """
    tensors = (source[0] if isinstance(source, (tuple, list)) else source for source in sources)
    tracked = [tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.requires_grad]
    if not tracked or torch.compiler.is_compiling():  # torch.compile traces backward passes that nobody asked for
        return scores
    with torch.enable_grad():
        return _Refusal.apply((scores,), *tracked)  # type: ignore[no-any-return, no-untyped-call]


def check_transforms() -> None:
    """Raise InputError inside torch.func's transforms and forward-mode differentiation, whose derivatives would be zero."""
    if torch.compiler.is_compiling():
        return
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        _refuse()


class _Refusal(torch.autograd.Function):
    """Puts scores into the graph of what they were made from, so that a backward pass comes here."""

    @staticmethod
    def forward(ctx: Any, scores: tuple[Tensor], *sources: Tensor) -> Tensor:
        """The scores, and not as a view of them: users write into what a model returns."""
        return scores[0].data

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> NoReturn:
        """Refuse."""
        _refuse()


def _refuse() -> NoReturn:
    raise InputError(
        "DoLa decodes and does not train: its scores have no gradient.",
        hint="remove DoLa first: model.dola.remove()",
    )
