"""Finds the parts of a model of vLLM by structure: blocks, final norm, head. No list of architectures decides.

blocks      the list of modules with as many members as the model has layers, nearest to the top
norms       norms of the residual stream's width outside the blocks: start-up proves which one is the final norm (proof.py)
head        the module with the output matrix, by its class
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from dola.errors import ModelError

BLOCKS = ("layers", "h", "blocks")
"""Usual names of the list of blocks, preferred where several lists are equally long."""
NORMS = ("norm", "norm_f", "ln_f", "final_layernorm", "final_layer_norm", "norm_out")
"""Usual names of the final norm, tried first."""


@dataclass
class Parts:
    """The parts of a model.

    Attributes:
        path: Name of the list of blocks, for messages.
        blocks: All blocks; those of other pipeline stages are placeholders.
        norms: Candidates for the final norm, the likeliest first, with their names. Empty on stages that are not the last.
        head: The module with the output matrix, without adapters; None if no module of a known class holds one.
        processor: vLLM's LogitsProcessor; None if the class has none.
        width: d, the width of the residual stream.
        norm: The final norm: the first candidate, until the proof has chosen.
        scale: The factor by which the model multiplies the final norm's output.
    """

    path: str
    blocks: nn.ModuleList
    norms: list[tuple[str, Any]]
    head: Any
    processor: Any
    width: int
    norm: Any = None
    scale: float = 1.0

    def here(self) -> list[int]:
        """Numbers of the blocks on this pipeline stage."""
        return [number for number, block in enumerate(self.blocks) if is_present(block)]


def parts_of(model: Any, num_layers: int, width: int) -> Parts:
    """The parts of a model whose weights need not be loaded yet.

    Args:
        model: A model of vLLM that generates text.
        num_layers: N, the number of blocks by the model's config.
        width: d, the width of the residual stream by the model's config.

    Raises:
        ModelError: No list has N modules that could be blocks.
    """
    language = language_model(model)
    path, blocks = _blocks(language, num_layers)
    norms = _norms(language, path, width)
    head = _head(language, model, width)
    processor = _processor(language) or _processor(model)
    return Parts(path, blocks, norms, head, processor, width, norms[0][1] if norms else None)


def language_model(model: Any) -> Any:
    """The part of a model that processes text: the model itself, except for multimodal models."""
    if not hasattr(model, "get_language_model"):
        return model
    try:
        found = model.get_language_model()
    except (AttributeError, NotImplementedError):  # a class whose parts vLLM cannot name either
        return model
    return found if isinstance(found, nn.Module) and hasattr(found, "_modules") else model


def is_present(module: Any) -> bool:
    """Whether a module is on this pipeline stage."""
    return type(module).__name__ != "PPMissingLayer"


def _blocks(language: nn.Module, num_layers: int) -> tuple[str, nn.ModuleList]:
    lists = {path: found for path, found in _outside(language, ()) if isinstance(found, nn.ModuleList)}
    fitting = {path: found for path, found in lists.items() if len(found) == num_layers and _could_be_blocks(found)}
    if not fitting:
        seen = ", ".join(f"{path} ({len(found)})" for path, found in list(lists.items())[:6]) or "none"
        raise ModelError(
            f"{type(language).__name__} has no list of {num_layers} blocks, as its config says. Lists of modules: {seen}.",
            hint='omit "dola" from additional_config, or decode it with transformers: dola.generate(model, ...)',
        )
    path = min(fitting, key=lambda each: (not _takes_states(fitting[each]), each.count("."), not each.endswith(BLOCKS)))
    return path, fitting[path]


def _could_be_blocks(found: nn.ModuleList) -> bool:
    """Whether a list can hold blocks: modules of parts, and no single linear layers or norms."""
    present = [block for block in found if is_present(block)]
    return all(len(list(block.children())) > 1 for block in present)


def _takes_states(found: nn.ModuleList) -> bool:
    first = next((block for block in found if is_present(block)), None)
    return first is None or any("hidden" in name for name in inspect.signature(first.forward).parameters)


def _outside(module: nn.Module, prefix: tuple[str, ...]) -> Iterator[tuple[str, nn.Module]]:
    """All modules outside of lists, and the lists themselves."""
    for name, child in module.named_children():
        path = (*prefix, name)
        yield ".".join(path), child
        if not isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _outside(child, path)


def _norms(language: nn.Module, blocks: str, width: int) -> list[tuple[str, Any]]:
    owner = blocks.rpartition(".")[0]
    found = [
        (path, module)
        for path, module in _outside(language, ())
        if "norm" in type(module).__name__.lower() and _has_width(module, width)
    ]

    def order(named: tuple[str, Any]) -> tuple[bool, bool]:
        parent, _, name = named[0].rpartition(".")
        return parent != owner, name not in NORMS

    return sorted(found, key=order)


def _has_width(module: nn.Module, width: int) -> bool:
    sizes = {parameter.numel() for parameter in module.parameters(recurse=False)}
    return sizes <= {width}  # a norm without weights has any width


def _head(language: nn.Module, model: nn.Module, width: int) -> Any:
    """A head of its own, of the language model or of the whole; or else the input embedding, which the model shares."""
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    tables = [
        (path.rpartition(".")[2] == "lm_head", isinstance(module, ParallelLMHead), module.num_embeddings, module)
        for part in (language, model)
        for path, module in _outside(part, ())
        if isinstance(module, VocabParallelEmbedding) and module.embedding_dim == width
    ]
    found = max(tables, key=lambda table: table[:3], default=(None,))[-1]
    return getattr(found, "base_layer", found)


def _processor(language: nn.Module) -> Any:
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    return next((module for _, module in _outside(language, ()) if isinstance(module, LogitsProcessor)), None)
