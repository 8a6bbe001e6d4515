"""Whether a checkpoint holds all weights of a model.

vLLM refuses by itself: a file that an index names and that is not there, tensors that the model has no place for, shapes that
do not fit, norms that are missing. It does not refuse a linear layer, an embedding or a head that no tensor was read for,
because those of quantised models may be made while they load. So the names of what was read are kept, and compared with the
parameters after loading:

    no tensor for a parameter             lm_head.weight
    some of the tensors that are fused    q_proj of qkv_proj, up_proj of gate_up_proj, one expert of many
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from dola.errors import DolaError, ModelFileError

SHOWN = 4
"""Names that an error lists."""

HOLDS_VALUES = re.compile(r"(w13_|w2_)?q?weight(_packed|_scale)?|scales")
"""Parameters of a quantised layer that every format must have in its file. Zero points, group indices and the like are not."""

EXPERT = re.compile(r"(?P<layer>.*\.experts)\.(?P<expert>\d+)\.(?P<part>.+)\.(?P<kind>\w+)")


class Reading:
    """Weights on their way from a checkpoint into a model, and the names of those that have passed.

    Args:
        weights: Names and tensors, as vLLM's loader yields them.
    """

    def __init__(self, weights: Iterable[tuple[str, Any]]) -> None:
        self._weights = weights
        self.names: list[str] = []
        self.shape: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        for name, tensor in self._weights:
            self.names.append(name)
            self.shape = tuple(getattr(tensor, "shape", ()))
            yield name, tensor

    @contextmanager
    def named(self, source: str) -> Iterator[None]:
        """Load the weights inside this: what vLLM raises over a checkpoint is raised with the tensor that it was at.

        Args:
            source: Where the weights are from.

        Raises:
            ModelFileError: In place of vLLM's errors about names, shapes and files.
        """
        try:
            yield
        except (AssertionError, FileNotFoundError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            if isinstance(error, torch.OutOfMemoryError | DolaError):
                raise
            said = (str(error).strip().splitlines() or [""])[0].partition(". ")[0][:300] or type(error).__name__
            at = f" at {self.names[-1]}, of shape {list(self.shape)}" if self.names else ""
            message = f"vLLM cannot load the weights of {source!r}. It failed{at}: {said}"
            hint = _NO_PLACE if "no module or parameter" in said else ""
            raise ModelFileError(message, hint=_causes(self.names) or hint or _INCOMPLETE) from error


def tracks_weights(load_config: Any) -> bool:
    """Whether vLLM's option to look at weights is not switched off: `model_loader_extra_config.enable_weights_track`."""
    extra = getattr(load_config, "model_loader_extra_config", None)
    return not isinstance(extra, Mapping) or extra.get("enable_weights_track") is not False


def check_weights(model: Any, source: str, loaded: Iterable[str] | None, names: Sequence[str], *, quantised: bool) -> None:
    """Refuse a model some of whose weights are not the checkpoint's.

    Args:
        model: A model of vLLM, its weights loaded and not yet processed.
        source: Where the weights are from, for messages.
        loaded: Names of parameters that something was loaded into; None where its class does not say.
        names: Names of the tensors that were read.
        quantised: Whether the engine quantises, or the checkpoint is quantised.

    Raises:
        ModelFileError: The names of what is missing, how many, and what usually causes it.
    """
    missing = [] if loaded is None else missing_parameters(model, set(loaded), quantised=quantised)
    missing += missing_parts(loaded or (), names, getattr(model, "packed_modules_mapping", None) or {})
    missing += missing_experts(names)
    if missing:
        count, kind = len(list(model.named_parameters())), type(model).__name__
        shown = ", ".join(missing[:SHOWN]) + (f", and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        raise ModelFileError(
            f"{source!r} lacks {len(missing)} of the {count} weights of {kind} in vLLM, and what is in memory would take "
            f"their place: {shown}.",
            hint=_causes(names, missing) or _INCOMPLETE,
        )


def missing_parameters(model: Any, loaded: set[str], *, quantised: bool) -> list[str]:
    """Parameters of a model that no tensor was read for, but for those that need none: tied ones, scales made while loading."""
    missing = []
    for prefix, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        names = {name: f"{prefix}.{name}" if prefix else name for name in own}
        is_left_out = any(full in loaded for full in names.values())
        method = getattr(module, "quant_method", None)
        if getattr(method, "uses_meta_device", False) or _is_cache(method):
            continue
        for name, parameter in own.items():
            may_lack = quantised and method is not None and is_left_out and not HOLDS_VALUES.fullmatch(name)
            if names[name] not in loaded and parameter.numel() and not may_lack and name != "input_scale_ub":
                missing.append((id(parameter), names[name]))
    # A tied parameter has two names, and one of them was loaded.
    present = {id(parameter) for name, parameter in model.named_parameters(remove_duplicate=False) if name in loaded}
    return [name for key, name in missing if key not in present]


def missing_parts(loaded: Iterable[str], names: Sequence[str], packed: Mapping[str, Sequence[str]]) -> list[str]:
    """Tensors of fused parameters that were not read where others were: `q_proj`, if `qkv_proj` got `k_proj` and `v_proj`."""
    read = {_tail(name): name for name in names}
    missing = []
    for parameter in loaded:
        for fused, parts in packed.items():
            if f".{fused}." not in parameter or not HOLDS_VALUES.fullmatch(parameter.rpartition(".")[2]):
                continue
            wanted = {part: _tail(parameter.replace(f".{fused}.", f".{part}.")) for part in parts}
            absent = [part for part, tail in wanted.items() if tail not in read]
            if 0 < len(absent) < len(parts):
                there = next(part for part in parts if part not in absent)
                missing += [read[wanted[there]].replace(f".{there}.", f".{part}.") for part in absent]
    return missing


def missing_experts(names: Iterable[str]) -> list[str]:
    """Tensors of experts that other experts, or experts of other layers, have."""
    found: dict[str, dict[str, dict[str, set[int]]]] = defaultdict(lambda: defaultdict(lambda: defaultdict(set)))
    for name in names:
        if (match := EXPERT.fullmatch(name)) and HOLDS_VALUES.fullmatch(match["kind"]):
            found[match["layer"]][match["part"]][match["kind"]].add(int(match["expert"]))
    held = {layer: {part: set().union(*kinds.values()) for part, kinds in parts.items()} for layer, parts in found.items()}
    wanted = set().union(*(experts for parts in held.values() for experts in parts.values()))
    missing = []
    for layer, parts in found.items():
        for part in sorted(set().union(*held.values())):
            kinds = parts.get(part) or {"weight": set()}
            missing += [f"{layer}.{i}.{part}.{kind}" for kind, experts in kinds.items() for i in sorted(wanted - experts)]
    return missing


def _tail(name: str) -> str:
    """A name from its first number on: the layer's, whatever stands before it in the model or in the checkpoint."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[first:])


def _is_cache(method: Any) -> bool:
    """Whether a quantisation method is one of the cache, whose scales have defaults."""
    return any(kind.__name__ == "BaseKVCacheMethod" for kind in type(method).__mro__)


def _causes(names: Sequence[str], missing: Sequence[str] = ()) -> str:
    """What causes it, where the names tell."""
    if any(name.startswith(PREFIXES) for name in names):
        return "a trainer's prefix is in the names of the tensors: strip it and save the model again"
    if missing and all(name.startswith(("lm_head", "output")) for name in missing):
        return 'save the head with the model, or set "tie_word_embeddings": true in config.json if it shares the embeddings'
    return ""


PREFIXES = ("base_model.model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.")
_INCOMPLETE = "save or fetch the model again, all files of it: parts may be lost, or config.json is another model's"
_NO_PLACE = "vLLM takes no tensors but the model's own: save it without others (a value head, for instance)"
