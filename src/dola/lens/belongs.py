"""Whether a lens belongs to a model, and its maps for the layers that a configuration reads."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from dola.errors import LensError
from dola.lens.fingerprint import QUANTIZED, SAME, difference, statistics
from dola.lens.lens import Lens
from dola.lens.maps import Maps
from dola.methods.config import MethodConfig
from dola.model.adapters_on import adapter_names
from dola.model.anatomy import Anatomy
from dola.model.identity import weights_digest
from dola.model.stored import is_quantized

_checked: WeakKeyDictionary[Any, set[tuple[str, str]]] = WeakKeyDictionary()
"""The lenses that each model was found to fit: digests of their files, with the digest of its weights at that time."""


def maps_of(
    anatomy: Anatomy, config: MethodConfig, layers: Sequence[int] | None = None, *, all_layers: bool = False
) -> Maps | None:
    """The maps of a configuration's lens for a model; None without a lens.

    Args:
        anatomy: The parts of the model.
        config: The settings of a method.
        layers: The layers that are read. Default: the candidates of the configuration.
        all_layers: Add all other layers that the lens has.

    Raises:
        LensError: A lens that cannot be read, that belongs to another model, or that has no map for one of these layers.
    """
    if config.lens is None:
        return None
    lens = Lens.load(config.lens)
    check(lens, anatomy)
    wanted = anatomy.candidates(config.layers) if layers is None else tuple(layers)
    if all_layers:
        wanted = tuple(sorted({*wanted, *lens.layers}))
    return lens.maps(wanted, device=_device(anatomy), dtype=anatomy.lm.dtype)


def lens_facts(configs: Iterable[MethodConfig | None]) -> dict[str, str]:
    """What results depend on beside the name of a lens: the content of its file."""
    names = sorted({config.lens for config in configs if config is not None and config.lens is not None})
    return {"lenses": ", ".join(Lens.load(name).digest for name in names)} if names else {}


def name_of(anatomy: Anatomy) -> str:
    """The model's name: hub id, folder or alias."""
    return str(anatomy.lm.config.name_or_path or type(anatomy.lm).__name__)


def check(lens: Lens, anatomy: Anatomy) -> None:
    """Raise LensError for a lens of another model; warn for another number type or quantization.

    Done again only when the model's weights have changed: by training, by an adapter that was merged or switched on.

    Raises:
        LensError: As said.
    """
    known, pair = _checked.setdefault(anatomy.lm, set()), (lens.digest, weights_digest(anatomy.lm))
    if pair in known:
        return
    check_sizes(lens, name_of(anatomy), num_layers=anatomy.num_layers, width=anatomy.lm.config.get_text_config().hidden_size)
    _check_weights(lens, anatomy)
    if lens.digest:
        known.add(pair)


def check_sizes(lens: Lens, name: str, *, num_layers: int, width: int) -> None:
    """Raise LensError where the sizes alone show that a lens belongs to another model."""
    theirs = lens.facts.get("num_layers"), lens.width
    if theirs != (num_layers, width):
        raise LensError(
            f"The lens belongs to {lens.model} ({theirs[0]} layers, width {theirs[1]}), not to {name} ({num_layers} layers, "
            f"width {width}).",
            hint=f"fit one for this model: dola lens fit {name} --output FILE",
        )


def _check_weights(lens: Lens, anatomy: Anatomy) -> None:
    name = name_of(anatomy)
    check_statistics(lens, name, statistics(anatomy), dtype=anatomy.lm.dtype, quantized=is_quantized(anatomy.lm))
    here, there = adapter_names(anatomy.lm), lens.facts.get("adapters") or []
    if here != there:
        warnings.warn(
            f"The lens was fitted on {lens.model} with {_spelled(there)}, and {name} now runs with {_spelled(here)}: "
            "the lens may read its layers less well.",
            stacklevel=3,
        )


def _spelled(adapters: Sequence[str]) -> str:
    """Names of adapters, for a sentence."""
    return f"the adapters {', '.join(adapters)}" if adapters else "no adapter"


def check_statistics(lens: Lens, name: str, mine: Mapping[str, Tensor], *, dtype: torch.dtype, quantized: bool) -> None:
    """Compare a lens with the statistics of a model's weights, as `fingerprint` makes them.

    Args:
        lens: The lens.
        name: The model's name.
        mine: The statistics of its weights.
        dtype: The number type of its weights.
        quantized: Whether they are quantized, or were.

    Raises:
        LensError: The lens belongs to another model.
    """
    theirs = bool(lens.facts.get("quantized"))
    common = {key: difference(lens.statistics[key], mine[key]) for key in mine.keys() & lens.statistics.keys()}
    most = max(common, key=lambda key: common[key], default=None)
    far = 0.0 if most is None else common[most]
    if not far <= (QUANTIZED if quantized or theirs else SAME):
        raise LensError(
            f"The lens belongs to {lens.model}, and {name} has other weights: {most} differs by {far:.1%}.",
            hint=f"fit one for this model: dola lens fit {name} --output FILE",
        )
    unknown = sorted({_part(key) for key in lens.statistics} - {_part(key) for key in common})
    here = str(dtype).removeprefix("torch.")
    if far > SAME:
        warnings.warn(
            f"The lens was fitted on {lens.model}, and {name} is quantized in another way: {most} differs by {far:.1%}.",
            stacklevel=3,
        )
    elif quantized != theirs and mine.keys() != lens.statistics.keys():
        which = name if quantized else lens.model
        warnings.warn(
            f"The lens was fitted on {lens.model}; {which} is quantized, so that its weights could not be compared.",
            stacklevel=3,
        )
    elif unknown or not lens.statistics:
        what = f"{len(unknown)} parts ({unknown[0]}, ...)" if unknown else "the weights"
        warnings.warn(f"Whether the lens of {lens.model} belongs to {name} could not be checked for {what}.", stacklevel=3)
    elif lens.facts.get("dtype") not in (None, here):
        warnings.warn(f"The lens was fitted on {lens.model} in {lens.facts['dtype']}, and {name} is in {here}.", stacklevel=3)


def _part(key: str) -> str:
    words = key.split(".")
    return ".".join(words[:2]) if words[0] == "block" else words[0]


def _device(anatomy: Anatomy) -> torch.device:
    """Where the head is: candidates are brought there."""
    weight = getattr(anatomy.head, "weight", None)
    device = weight.device if isinstance(weight, torch.Tensor) else anatomy.lm.device
    return torch.device("cpu") if device.type == "meta" else torch.device(device)
