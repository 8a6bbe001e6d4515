"""Model types that need more than discovery by structure: registered anatomies, and types that DoLa does not support.

    from dola.model.anatomy import Anatomy, register_anatomy

    def my_anatomy(lm):  # the causal LM, without PEFT or torch.compile wrappers
        return dataclasses.replace(Anatomy.by_structure(lm), final_norm=lm.model.my_norm)

    register_anatomy("my_model", my_anatomy)  # the `model_type` of its config

A package does the same for its users with an entry point in the group `dola.anatomies`, loaded when such a model is used:

    [project.entry-points."dola.anatomies"]
    my_model = "my_package.dola:my_anatomy"
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from dola.errors import ModelError

GROUP = "dola.anatomies"

REFUSED = {
    "blt": "its blocks process patches of bytes, and other blocks turn these into bytes",
    "cpmant": "its blocks also process positions of a soft prompt before the text",
    "hrm_text": "its blocks run several times in one forward pass, so a layer does not have a single state",
    "inkling2_loop_text": "its head reads a mixture of several blocks' states, and some blocks run several times",
    "inkling2_text": "its head reads a mixture of several blocks' states, so that an earlier layer alone has no readout",
    "prophetnet": "its blocks process streams for several future tokens at once",
    "reformer": "its blocks are reversible and pass on two streams, which its head reads together",
    "xlm": "its blocks are not modules: attention, norms and feed-forward layers are in separate lists",
    "xlnet": "its blocks run over two streams, with time before the batch",
}
"""Model types of transformers whose blocks' states the head cannot read, and why."""

FINAL_NORMS = {"bigbird_pegasus": "model.decoder.layernorm_embedding"}
"""Final norms by model type whose names mislead: BART's decoder begins with a norm of that name."""

_registered: dict[str, Callable[[Any], Any]] = {}
A = TypeVar("A")


def register_anatomy(model_type: str, factory: Callable[[Any], Any], *, replace: bool = False) -> None:
    """Register a factory that finds the parts of a model type, instead of discovery by structure.

    Args:
        model_type: The `model_type` of the model's config.
        factory: Called with the causal LM (a PreTrainedModel) whenever DoLa meets one of this type; returns its `Anatomy`.
        replace: Whether to replace a factory that is already registered.

    Raises:
        ModelError: The model type is not a string, the factory is not callable, or the type is already registered.
    """
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(f"register_anatomy: model_type={model_type!r} is not the name of a model type.", hint=_EXAMPLE)
    if not callable(factory):
        raise ModelError(f"register_anatomy: the factory for {model_type!r}, {factory!r}, is not callable.", hint=_EXAMPLE)
    if model_type in _registered and not replace:
        raise ModelError(
            f"register_anatomy: {model_type!r} is already registered, by {_where(_registered[model_type])}.",
            hint=f"to replace it: register_anatomy({model_type!r}, ..., replace=True)",
        )
    _registered[model_type] = factory


def unregister_anatomy(model_type: str) -> None:
    """Undo `register_anatomy`. Does nothing if the type is not registered."""
    _registered.pop(model_type, None)


def registered_anatomy(lm: Any, kind: type[A]) -> A | None:
    """The Anatomy (`kind`) from the factory that is registered for the type of `lm`; None without a factory.

    Raises:
        ModelError: The factory cannot be loaded, fails, or returns something else.
    """
    model_type = getattr(getattr(lm, "config", None), "model_type", None)
    factory = _registered.get(str(model_type)) or _from_entry_point(model_type)
    if factory is None:
        return None
    try:
        made = factory(lm)
    except Exception as error:
        raise ModelError(
            f"The anatomy registered for {model_type!r} by {_where(factory)} failed: {type(error).__name__}: {error}",
            hint="this is a bug in that factory, not in the model or in dola",
        ) from error
    if not isinstance(made, kind):
        raise ModelError(
            f"The anatomy registered for {model_type!r} by {_where(factory)} is a {type(made).__name__}, not an Anatomy.",
            hint=_EXAMPLE,
        )
    return made


def why_not(lm: Any) -> str | None:
    """Why DoLa does not support a model's type, or None if it does."""
    return REFUSED.get(getattr(lm.config, "model_type", ""))


def _from_entry_point(model_type: str | None) -> Callable[[Any], Any] | None:
    found: list[EntryPoint] = [point for point in entry_points(group=GROUP) if point.name == model_type]
    if not found:
        return None
    try:
        factory: Callable[[Any], Any] = found[0].load()
    except Exception as error:
        raise ModelError(
            f"The entry point {found[0].value!r} of {GROUP}, for {model_type!r}, cannot be loaded: "
            f"{type(error).__name__}: {error}",
            hint="fix or remove the package that provides it",
        ) from error
    if not callable(factory):
        raise ModelError(f"The entry point {found[0].value!r} of {GROUP}, for {model_type!r}, is not callable.", hint=_EXAMPLE)
    return factory


def _where(factory: Callable[[Any], Any]) -> str:
    return f"{getattr(factory, '__module__', '?')}:{getattr(factory, '__qualname__', repr(factory))}"


class AltUp:
    """Merges the residual streams of Gemma 3n's blocks into one, as its model does after the last block."""

    def __init__(self, projections: nn.ModuleList) -> None:
        self.projections = projections

    def __call__(self, streams: Tensor) -> Tensor:
        """[S, B, T, d] -> [B, T, d]: the mean of the streams, with the others projected and scaled to the first one's RMS."""
        first = streams[0]
        size = first.square().mean(dim=-1, keepdim=True).sqrt()
        merged = [first]
        for stream, projection in zip(streams[1:], self.projections, strict=True):
            projected = projection(stream).to(first)
            merged.append(projected * size / projected.square().mean(dim=-1, keepdim=True).clamp(min=1e-5).sqrt())
        return torch.stack(merged).mean(dim=0)


_EXAMPLE = 'register_anatomy("my_model", lambda lm: dataclasses.replace(Anatomy.by_structure(lm), final_norm=lm.model.my_norm))'
