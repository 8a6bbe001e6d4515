"""What structure cannot tell of a model type: anatomies that others register, types that cannot be contrasted, and why.

    from dola.model.anatomy import Anatomy, register_anatomy

    def my_anatomy(lm):  # the causal LM, without PEFT or torch.compile wrappers
        return dataclasses.replace(Anatomy.by_structure(lm), final_norm=lm.model.my_norm)

    register_anatomy("my_model", my_anatomy)  # the `model_type` of its config

A package does the same for its users with an entry point of the group `dola.anatomies`, loaded when such a model comes up:

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
    "blt": "its blocks run over patches of bytes, and other blocks make bytes of them",
    "cpmant": "its blocks run over positions of a soft prompt in front of the text",
    "hrm_text": "its blocks run several times in one forward, so a layer is no single state",
    "inkling2_text": "its head reads a mixture of several blocks' states, so that an earlier layer alone has no readout",
    "prophetnet": "its blocks run over streams for several future tokens at once",
    "reformer": "its blocks are reversible and pass on two streams, which its head reads side by side",
    "xlm": "its blocks are no modules: attention, norms and feed-forward layers stand in lists of their own",
    "xlnet": "its blocks run over two streams, with time before the batch",
}
"""Model types of transformers whose blocks pass on nothing that the head could read, and why."""

FINAL_NORMS = {"bigbird_pegasus": "model.decoder.layernorm_embedding"}
"""Final norms by model type, where their names say something else: BART's decoder begins with a norm of that name."""

_registered: dict[str, Callable[[Any], Any]] = {}
A = TypeVar("A")


def register_anatomy(model_type: str, factory: Callable[[Any], Any], *, replace: bool = False) -> None:
    """Say how the parts of a model type are found, in place of discovery by structure.

    Args:
        model_type: The `model_type` of the model's config.
        factory: Called with the causal LM (a PreTrainedModel), whenever DoLa meets one of this type; returns its `Anatomy`.
        replace: Whether a factory that is registered already gives way.

    Raises:
        ModelError: A model type that is no text, a factory that cannot be called, or a type that is registered already.
    """
    if not isinstance(model_type, str) or not model_type:
        raise ModelError(f"register_anatomy: model_type={model_type!r} is no name of a model type.", hint=_EXAMPLE)
    if not callable(factory):
        raise ModelError(f"register_anatomy: the factory for {model_type!r}, {factory!r}, cannot be called.", hint=_EXAMPLE)
    if model_type in _registered and not replace:
        raise ModelError(
            f"register_anatomy: {model_type!r} is registered already, by {_where(_registered[model_type])}.",
            hint=f"to put yours in its place: register_anatomy({model_type!r}, ..., replace=True)",
        )
    _registered[model_type] = factory


def unregister_anatomy(model_type: str) -> None:
    """Undo `register_anatomy`. Without it, do nothing."""
    _registered.pop(model_type, None)


def registered_anatomy(lm: Any, kind: type[A]) -> A | None:
    """What the factory registered for the type of `lm` returns, an Anatomy (`kind`); None where there is no factory.

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
            hint="this is a mistake of that factory, not of the model or of dola",
        ) from error
    if not isinstance(made, kind):
        raise ModelError(
            f"The anatomy registered for {model_type!r} by {_where(factory)} is a {type(made).__name__}, not an Anatomy.",
            hint=_EXAMPLE,
        )
    return made


def why_not(lm: Any) -> str | None:
    """Why a model cannot be contrasted by its type, or None."""
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
            hint="repair or remove the package that brings it",
        ) from error
    if not callable(factory):
        raise ModelError(f"The entry point {found[0].value!r} of {GROUP}, for {model_type!r}, cannot be called.", hint=_EXAMPLE)
    return factory


def _where(factory: Callable[[Any], Any]) -> str:
    return f"{getattr(factory, '__module__', '?')}:{getattr(factory, '__qualname__', repr(factory))}"


class AltUp:
    """One residual stream of the several that Gemma 3n's blocks pass on, as its model makes it behind the last block."""

    def __init__(self, projections: nn.ModuleList) -> None:
        self.projections = projections

    def __call__(self, streams: Tensor) -> Tensor:
        """[S, B, T, d] -> [B, T, d]: the mean, the others projected and brought to the first one's root mean square."""
        first = streams[0]
        size = first.square().mean(dim=-1, keepdim=True).sqrt()
        merged = [first]
        for stream, projection in zip(streams[1:], self.projections, strict=True):
            projected = projection(stream).to(first)
            merged.append(projected * size / projected.square().mean(dim=-1, keepdim=True).clamp(min=1e-5).sqrt())
        return torch.stack(merged).mean(dim=0)


_EXAMPLE = 'register_anatomy("my_model", lambda lm: dataclasses.replace(Anatomy.by_structure(lm), final_norm=lm.model.my_norm))'
