"""Whether a loaded model has the weights of its file.

`from_pretrained` fills weights that the file lacks with random numbers, and ignores those that the model cannot use.
It lists both on request (`output_loading_info`), except tied weights and those that it declares harmless.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from dola.errors import ModelFileError
from dola.loading.gguf_header import GgufHeader
from dola.loading.stored_types import packed_weights
from dola.loading.weight_causes import MAKERS_CONFIG, cause_of
from dola.loading.weight_lists import SHOWN, Lists, cut_layers, listed, numbered, unscaled


class Fault(NamedTuple):
    """A problem with its cause, and how to fix it."""

    message: str
    hint: str


@dataclass(frozen=True)
class WeightsReport:
    """What transformers found when it put a file's weights into a model.

    Attributes:
        lists: The names of missing, mismatched and unexpected weights, and of all that the model has.
        fault: Why the model must not be used, or None.
        notes: Sentences that the user should read.
    """

    lists: Lists
    fault: Fault | None = None
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(
        cls,
        source: str,
        model: Any,
        info: Any,
        *,
        cut_on_purpose: bool = False,
        adapter: bool = False,
        header: GgufHeader | None = None,
        folder: Path | None = None,
    ) -> WeightsReport:
        """Judge transformers' report.

        Args:
            source: The name of the model or adapter.
            model: The model that the weights went into.
            info: What `from_pretrained` or `load_adapter` returned about the weights.
            cut_on_purpose: Whether the caller asked for fewer layers than the file has.
            adapter: Whether the weights are an adapter's.
            header: The header of a GGUF file: transformers does not list the file's tensors that it ignores.
            folder: Where the safetensors files of a model are.
        """
        lists = _lists(source, model, info, adapter)
        fault = _fault_of(lists, cut_on_purpose=cut_on_purpose)
        depth = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        if fault is None and header is not None and not cut_on_purpose and depth is not None and header.blocks > depth:
            fault = _cut_gguf(source, header.blocks, depth)
        integers, small = ((), ()) if fault or _is_quantised(model) else packed_weights(folder, _floating(model))
        if integers:
            fault = _integers(source, integers)
        notes = [] if fault else [*([_unexpected(lists)] if lists.unexpected else []), *_unread(source, header)]
        notes += [_small(source, small)] if small and not fault else []
        return cls(lists, fault, tuple(notes))

    def refuse(self) -> None:
        """Raise the fault, if there is one.

        Raises:
            ModelFileError: Weights are missing, have other shapes, or belong to a deeper or a quantized model.
        """
        if self.fault is not None:
            raise ModelFileError(self.fault.message, hint=self.fault.hint)

    def describe(self) -> str:
        """One text for a list of checks: the fault with its hint, or the notes, or that all weights are right."""
        if self.fault is not None:
            return f"{self.fault.message} {self.fault.hint[:1].upper()}{self.fault.hint[1:]}."
        return " ".join(self.notes) or f"all {len(self.lists.names)} weights match the file"


def _lists(source: str, model: Any, info: Any, adapter: bool) -> Lists:
    found = info if isinstance(info, Mapping) else vars(info)  # `load_adapter` returns an object
    names = tuple(model.state_dict())
    order = {name: i for i, name in enumerate(names)}

    def ordered(keys: Any) -> tuple[str, ...]:
        return tuple(sorted(map(str, keys), key=lambda name: (order.get(name, len(order)), name)))

    shapes = {str(name): (tuple(ours), tuple(theirs)) for name, ours, theirs in found["mismatched_keys"]}
    return Lists(
        source=source,
        kind="adapter" if adapter else type(model).__name__,
        names=names,
        head=_head(model),
        architectures=tuple(getattr(model.config, "architectures", None) or ()),
        missing=ordered(found["missing_keys"]),
        mismatched={name: shapes[name] for name in ordered(shapes)},
        unexpected=tuple(sorted(map(str, found["unexpected_keys"]))),
    )


def _head(model: Any) -> str:
    """The path of the language-modeling head in a model; empty if it has none."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return next((path for path, module in model.named_modules() if module is head), "") if head is not None else ""


def _unexpected(lists: Lists) -> str:
    count = len(lists.unexpected)
    weights, they = ("1 weight", "It was") if count == 1 else (f"{count} weights", "They were")
    names = set(lists.names)
    ours = any(name.endswith(".bias") and f"{name.removesuffix('bias')}weight" in names for name in lists.unexpected)
    return f"{lists.source!r} holds {weights} that {_whom(lists)} cannot use: {listed(lists.unexpected)}. {they} left out; " + (
        "some belong to parts that the model has, so its answers can differ from those of the model that was saved."
        if ours
        else "every weight of the model came from the file."
    )


def _whom(lists: Lists) -> str:
    return "its base model" if lists.kind == "adapter" else lists.kind


def _is_quantised(model: Any) -> bool:
    return getattr(model, "hf_quantizer", None) is not None


def _floating(model: Any) -> set[str]:
    return {name for name, weight in model.state_dict().items() if weight.is_floating_point()}


def _integers(source: str, names: tuple[str, ...]) -> Fault:
    return Fault(
        f"The weights of {source!r} are quantized, and config.json does not say how. These are stored as integers and would be "
        f"read as plain numbers: {listed(names)}.",
        MAKERS_CONFIG,
    )


def _small(source: str, names: tuple[str, ...]) -> str:
    return (
        f"{source!r} stores these weights as 8-bit floats without scales, and they were read unscaled: {listed(names)}. "
        "If they were quantized with scales, the scales are lost and the answers are wrong."
    )


def _cut_gguf(source: str, blocks: int, depth: int) -> Fault:
    return Fault(
        f"{source} has the weights of {blocks} layers, but its metadata says {depth}: the model would end after layer {depth}.",
        "download the file again, or convert the model again: its metadata does not match its tensors",
    )


def _unread(source: str, header: GgufHeader | None) -> list[str]:
    """A note on tensors of a GGUF file that transformers does not read: scaling factors of rotary position embeddings."""
    names = [name for name in header.tensors if name.startswith("rope_")] if header is not None else []
    if not names:
        return []
    return [
        f"transformers does not read {', '.join(names)} of {source}: its rotary embeddings are not scaled, so its answers can "
        "differ from those of the model that its authors published."
    ]


def _fault_of(lists: Lists, *, cut_on_purpose: bool = False) -> Fault | None:
    """What is wrong with the weights, or None.

    Args:
        lists: The names that transformers reported.
        cut_on_purpose: Whether the caller asked for fewer layers than the file has.
    """
    found = []
    if lists.missing:
        found.append(
            f"{lists.source!r} lacks {_of_all(lists, len(lists.missing))}, and random numbers would take their place: "
            f"{listed(lists.missing)}."
        )
    if lists.mismatched:
        shapes = [f"{name} ({_shape(ours)} in the file, {_shape(model)} in the model)" for name, (ours, model) in _some(lists)]
        more = len(lists.mismatched) - len(shapes)
        found.append(
            f"In {lists.source!r} {_of_all(lists, len(lists.mismatched))} have other shapes than {_config(lists)} says: "
            f"{', '.join(shapes)}{f' and {more} more' if more else ''}."
        )
    if found:
        sentence, hint = cause_of(lists)
        return Fault(f"{' '.join(found)} {sentence}", hint)
    if unscaled(lists):
        return Fault(*_unscaled(lists))
    if not cut_on_purpose and cut_layers(lists):
        return Fault(*_cut(lists))
    return None


def _config(lists: Lists) -> str:
    return "adapter_config.json" if lists.kind == "adapter" else "config.json"


def _of_all(lists: Lists, count: int) -> str:
    whose = "the adapter's" if lists.kind == "adapter" else f"the {len(lists.names)}"
    what = "" if lists.kind == "adapter" else f" of {lists.kind}"
    return f"{count} of {whose} weights{what}"


def _some(lists: Lists) -> Iterable[tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    return islice(lists.mismatched.items(), SHOWN)


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def _unscaled(lists: Lists) -> Fault:
    return Fault(
        f"The weights of {lists.source!r} are quantized, and config.json does not say how. They would be read as plain "
        f"numbers, without these scales: {listed(unscaled(lists))}.",
        MAKERS_CONFIG,
    )


def _cut(lists: Lists) -> Fault:
    layers = cut_layers(lists)
    path = layers[0].rpartition(".")[0]
    depth = 1 + max((number for name in lists.names for at, number, _ in numbered(name) if at == f"{path}."), default=-1)
    return Fault(
        f"{lists.source!r} has more layers than config.json says. The model would end after {depth} layers, and the file has "
        f"{len(layers)} more: {', '.join(layers[:SHOWN])}{', ...' if len(layers) > SHOWN else ''}.",
        f"set num_hidden_layers to {depth + len(layers)} in config.json; to cut the model on purpose, in Python: "
        f"dola.load({lists.source!r}, num_hidden_layers={depth})",
    )
