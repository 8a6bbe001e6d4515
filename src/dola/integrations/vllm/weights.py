"""Checks that a checkpoint holds all weights of a model.

vLLM itself refuses: a missing file that an index names, tensors that the model cannot use, shapes that do not fit, missing
norms. It does not refuse a linear layer, an embedding or a head for which no tensor was read, because those of quantized models
may be made while loading. So the names of the tensors that were read are recorded, and compared with the parameters after
loading:

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
"""Maximum number of names that an error lists."""

HOLDS_VALUES = re.compile(r"(w13_|w2_)?q?weight(_packed|_scale)?|scales")
"""Parameters of a quantized layer that files of every format must have; not zero points, group indices and the like."""

EXPERT = re.compile(r"(?P<layer>.*\.experts)\.(?P<expert>\d+)\.(?P<part>.+)\.(?P<kind>\w+)")


class Reading:
    """Weights on the way from a checkpoint into a model, and the names of those already read.

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
        """Add the current tensor to vLLM's errors inside, where the weights are loaded.

        Args:
            source: Source of the weights.

        Raises:
            ModelFileError: Replaces vLLM's errors about names, shapes and files.
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
    """Whether vLLM's check of weights is on: `model_loader_extra_config.enable_weights_track`."""
    extra = getattr(load_config, "model_loader_extra_config", None)
    return not isinstance(extra, Mapping) or extra.get("enable_weights_track") is not False


def check_weights(model: Any, source: str, loaded: Iterable[str] | None, names: Sequence[str], *, quantised: bool) -> None:
    """Refuse a model if some of its weights do not come from the checkpoint.

    Args:
        model: A model of vLLM with its weights loaded and not yet processed.
        source: Source of the weights, for messages.
        loaded: Names of loaded parameters; None if its class does not report them.
        names: Names of the tensors that were read.
        quantised: Whether the engine quantizes, or the checkpoint is quantized.

    Raises:
        ModelFileError: Weights are missing: their names, their number, and the usual cause.
    """
    missing = [] if loaded is None else missing_parameters(model, set(loaded), quantised=quantised)
    missing += missing_parts(loaded or (), names, getattr(model, "packed_modules_mapping", None) or {})
    missing += missing_experts(names)
    if missing:
        count, kind = len(list(model.named_parameters())), type(model).__name__
        shown = ", ".join(missing[:SHOWN]) + (f", and {len(missing) - SHOWN} more" if len(missing) > SHOWN else "")
        raise ModelFileError(
            f"{source!r} lacks {len(missing)} of the {count} weights of {kind} in vLLM, and uninitialized memory would replace "
            f"them: {shown}.",
            hint=_causes(names, missing) or _INCOMPLETE,
        )


def missing_parameters(model: Any, loaded: set[str], *, quantised: bool) -> list[str]:
    """Parameters without a tensor, except those that need none: tied ones, and scales made while loading."""
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
    """Missing tensors of partly read fused parameters: `q_proj`, if `qkv_proj` got `k_proj` and `v_proj`."""
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
    """Missing tensors of experts that other experts, or experts of other layers, have."""
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
    """A name from its first number, the layer's, on, whatever precedes it in the model or in the checkpoint."""
    parts = name.split(".")
    first = next((i for i, part in enumerate(parts) if part.isdigit()), 0)
    return ".".join(parts[first:])


def _is_cache(method: Any) -> bool:
    """Whether a quantization method belongs to the cache, whose scales have defaults."""
    return any(kind.__name__ == "BaseKVCacheMethod" for kind in type(method).__mro__)


def _causes(names: Sequence[str], missing: Sequence[str] = ()) -> str:
    """The cause, if the names show it."""
    if any(name.startswith(PREFIXES) for name in names):
        return "a trainer's prefix is in the names of the tensors: strip it and save the model again"
    if missing and all(name.startswith(("lm_head", "output")) for name in missing):
        return 'save the head with the model, or set "tie_word_embeddings": true in config.json if it shares the embeddings'
    return ""


PREFIXES = ("base_model.model.", "module.", "_orig_mod.", "_fsdp_wrapped_module.")
_INCOMPLETE = "save or fetch all files of the model again: parts may be lost, or config.json belongs to another model"
_NO_PLACE = "vLLM accepts only the model's own tensors: save it without others (a value head, for instance)"
