"""A clear error for users who request gradients of DoLa's scores; torch would only say that they require none.

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
    """The same scores; a backward pass from them raises InputError if one of the sources requires a gradient.

    Args:
        scores: The scores, detached.
        sources: The tensors or block outputs that they were computed from.
    """
    tensors = (source[0] if isinstance(source, (tuple, list)) else source for source in sources)
    tracked = [tensor for tensor in tensors if isinstance(tensor, Tensor) and tensor.requires_grad]
    if not tracked or torch.compiler.is_compiling():  # torch.compile traces backward passes without being asked
        return scores
    with torch.enable_grad():
        return _Refusal.apply((scores,), *tracked)  # type: ignore[no-any-return, no-untyped-call]


def check_transforms() -> None:
    """Refuse torch.export, and torch.func's transforms and forward-mode differentiation, whose derivatives would be zero.

    Raises:
        InputError: The forward is exported or transformed.
    """
    if _is_exporting():
        raise InputError(
            "torch.export cannot keep DoLa in a graph: which rows are contrasted depends on their values.",
            hint="remove DoLa and export the plain model, or compile it: model.generate = torch.compile(model.generate)",
        )
    if torch.compiler.is_compiling():
        return
    if forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active():
        _refuse()


def _is_exporting() -> bool:
    exporting = getattr(torch.compiler, "is_exporting", None)  # from torch 2.7 on; before, torch reports the branch itself
    return exporting is not None and bool(exporting())


class _Refusal(torch.autograd.Function):
    """Adds scores to the graph of their sources, so that a backward pass arrives here."""

    @staticmethod
    def forward(ctx: Any, scores: tuple[Tensor], *sources: Tensor) -> Tensor:
        """The scores, not as a view: users may write into a model's output."""
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
