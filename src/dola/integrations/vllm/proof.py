"""Proves at start-up that the parts of a model are the right ones, on a short forward of its own.

    the final norm of the last block's captured output     is the state that the model returns, with or without its residual
    the logits of that, as candidates are read             are the model's logits of the returned state
    the logits of the head and vLLM's LogitsProcessor      are these, too

The forward runs as requests will (compiled or not, on all workers), with real token ids. vLLM's own trial runs prove nothing:
their tokens are all zero, and the states that they pass to `compute_logits` are random.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dola.errors import ModelError
from dola.integrations.vllm.capture import Captures
from dola.integrations.vllm.parts import Parts
from dola.model.anatomy import READOUT_TOLERANCE

logger = logging.getLogger("vllm.dola")

TOKENS = 16
"""Length of the forward."""


@dataclass
class Found:
    """A candidate for the final norm, and how far it is from the returned states, relative to their largest number."""

    name: str
    norm: Any
    error: float
    scale: float = 1.0
    apart: bool = True


def prove(
    model: Any,
    parts: Parts,
    captures: Captures,
    run: Callable[..., Any],
    vllm_config: Any,
    logits: Callable[[Tensor, Tensor], tuple[Tensor | None, ...]],
    *,
    like: dict[str, Any] | None = None,
) -> None:
    """Prove a model's parts, and choose its final norm among the candidates.

    Args:
        model: A model of vLLM with its weights.
        parts: Its parts; `norm` and `scale` are set.
        captures: Where its blocks write.
        run: The model's own forward.
        vllm_config: The engine's configuration.
        logits: `VLLMModel.logits_in_three_ways`.
        like: The inputs of a forward that has run, if one has.

    Raises:
        ModelError: The parts do not explain what the model returns: what was found, and the difference.
    """
    from vllm.distributed import get_pp_group
    from vllm.forward_context import set_forward_context

    with (
        torch.inference_mode(),
        set_forward_context(None, vllm_config, num_tokens=TOKENS),
        captures.running(None, everything=True),
        _blank_attention(vllm_config),
    ):
        returned = run(**_inputs(model, vllm_config, like))
    kind = type(model).__name__
    if captures.fault is not None:
        raise _refused(kind, parts, f"the blocks do not pass on one residual stream: {captures.fault}")
    if not get_pp_group().is_last_rank:
        return
    both = captures.buffer[captures.output :, :TOKENS]
    states = both[0]
    if not isinstance(returned, Tensor) or returned.shape != states.shape:
        shape = list(returned.shape) if isinstance(returned, Tensor) else type(returned).__name__
        raise _refused(kind, parts, f"the model returns {shape} for {TOKENS} tokens, not rows of {parts.width} numbers")
    rows = returned.isfinite().all(-1) & states.isfinite().all(-1)
    if not rows.any() or not states[rows].any():
        raise _refused(kind, parts, "a forward of random tokens gave no finite numbers other than zero")
    with torch.inference_mode():
        found = [nearest_norm(parts, each[rows], returned[rows]) for each in both]
        best = min(found, key=lambda norm: norm.error)
        best.apart = best is found[0]
        states = both[0 if best.apart else 1]
        tolerance = READOUT_TOLERANCE.get(returned.dtype, 5e-2)
        if not best.error <= tolerance:
            raise _refused(
                kind,
                parts,
                f"the final norm of the last block's output differs from the state that the model returns by {best.error:.1e} "
                f"of its largest number, for the best of {len(parts.norms)} norms ({best.name})",
            )
        if not best.apart and get_pp_group().world_size > 1:  # earlier stages cannot know: they have no norm to compare with
            raise _refused(kind, parts, "its blocks already add the residual, which is not supported in a pipeline")
        parts.norm, parts.scale, captures.apart = best.norm, best.scale, best.apart
        theirs, read, alone = logits(states[rows][:4], returned[rows][:4])
    for what, ours in (("last block's output", read), ("head alone", alone)):
        if ours is None or not (error := difference(ours, theirs)) <= tolerance:
            how = "cannot be computed" if ours is None else f"differ from the model's by {error:.1e}"
            raise _refused(kind, parts, f"the logits of the {what} {how}")
    scaled = "" if best.scale == 1 else f", times {best.scale:.6g}"
    logger.info("DoLa: blocks %s (%d), final norm %s%s; proved on a forward", parts.path, len(parts.blocks), best.name, scaled)


@contextmanager
def _blank_attention(vllm_config: Any) -> Iterator[None]:
    """Make attention return zeros, as vLLM's does without a cache on GPUs. On CPUs it returns what its memory held before."""

    def blanking(forward: Any) -> Any:
        def blanked(*args: Any, output: Any = None, **kwargs: Any) -> Any:
            if output is not None:
                output.zero_()
            return forward(*args, output=output, **kwargs)

        return blanked

    layers = vllm_config.compilation_config.static_forward_context.values()
    cores = {id(layer.impl): layer.impl for layer in layers if hasattr(getattr(layer, "impl", None), "forward")}.values()
    for core in cores:
        core.forward = blanking(core.forward)
    try:
        yield
    finally:
        for core in cores:
            del core.forward  # the instance's, which hides the class's


def nearest_norm(parts: Parts, states: Tensor, returned: Tensor) -> Found:
    """The candidate that turns the last block's output into the returned states, or that comes nearest."""
    candidates = [(name, module, normed(module, states)) for name, module in parts.norms]
    candidates.append(("no norm", None, states))
    tried = [Found(name, module, difference(output, returned)) for name, module, output in candidates]
    if (best := min(tried, key=lambda found: found.error)).error <= READOUT_TOLERANCE.get(returned.dtype, 5e-2):
        return best
    for name, module, output in candidates:
        wide = output.double()
        scale = ((wide * returned).sum() / (wide * wide).sum()).item()
        tried.append(Found(name, module, difference(wide * scale, returned), scale))
    return min(tried, key=lambda found: found.error)


def normed(module: Any, states: Tensor) -> Tensor:
    """Rows [R, d] after a norm of vLLM. Some norms also return a residual."""
    found = module(states.clone().contiguous())
    rows: Tensor = found[0] if isinstance(found, tuple) else found
    return rows


def difference(ours: Tensor, theirs: Tensor | None) -> float:
    """The largest difference, relative to the largest number; 0 on workers without logits."""
    if theirs is None:
        return 0.0
    if ours.shape != theirs.shape or not torch.equal(ours.isfinite(), theirs.isfinite()):
        return float("inf")
    finite = theirs.isfinite()
    largest = theirs[finite].abs().max().double().clamp(min=1e-9)
    return ((ours[finite].double() - theirs[finite].double()).abs().max() / largest).item()


def _inputs(model: Any, vllm_config: Any, like: dict[str, Any] | None) -> dict[str, Any]:
    """What a model runner gives a forward of a text prompt; compiled code takes only the kinds of inputs that it has seen."""
    from vllm.distributed import get_pp_group

    config = vllm_config.model_config
    device = next(each.device for each in model.parameters() if not each.is_meta)  # parts for images may be left out
    ids = (torch.arange(TOKENS, device=device) * 7919 + 13) % max(1, config.get_vocab_size() - 8) + 4
    ids %= config.get_vocab_size()
    positions = torch.arange(TOKENS, device=device)
    streams = 3 if config.uses_mrope else getattr(config, "uses_xdrope_dim", 0)
    if streams:
        positions = positions.repeat(streams, 1)
    given: dict[str, Any] = {"input_ids": ids, "positions": positions, "intermediate_tensors": None, "inputs_embeds": None}
    if not get_pp_group().is_first_rank:
        empty = model.make_empty_intermediate_tensors(batch_size=TOKENS, dtype=config.dtype, device=device)
        generator = torch.Generator().manual_seed(0)  # the same on all workers
        for name, tensor in empty.tensors.items():
            if tensor.is_floating_point():
                empty.tensors[name] = torch.randn(tensor.shape, generator=generator).to(tensor)
        given["intermediate_tensors"] = empty
    elif config.supports_multimodal_inputs if like is None else like.get("inputs_embeds") is not None:
        given["inputs_embeds"] = model.embed_input_ids(ids)
        if not config.requires_raw_input_tokens if like is None else like.get("input_ids") is None:
            given["input_ids"] = None
    return given


def _refused(kind: str, parts: Parts, why: str) -> ModelError:
    head = "none" if parts.head is None else type(parts.head).__name__
    norms = ", ".join(name for name, _ in parts.norms) or "none"
    return ModelError(
        f"DoLa cannot be used with {kind} in this vLLM: {why}. Found: blocks {parts.path} ({len(parts.blocks)}), "
        f"norms {norms}, head {head}.",
        hint='omit "dola" from additional_config, or decode it with transformers: dola.generate(model, ...)',
    )
