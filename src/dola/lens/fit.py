"""Fit a lens: least squares from each layer's state to what the head reads after the last block.

    text -> windows of tokens --forward--> states h_l, normed last state y --add up, float64--> W_l, b_l

W and b minimize |y - (W h + b)|^2 over positions, with a ridge of 1e-5 of the mean variance. Only sums are kept: one [d+1, d+1]
and one [d+1, d] matrix of float64 for each layer, whatever the length of the text. Every eighth window is
held out, up to 2,048 positions.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dola._version import __version__
from dola.errors import InputError, LensError
from dola.lens.belongs import name_of
from dola.lens.fingerprint import statistics
from dola.lens.lens import Lens
from dola.lens.partial import Partial
from dola.lens.quality import Table, with_start
from dola.lens.refine import check_refine, drawn, refined
from dola.lens.sums import RIDGE, Sums
from dola.lens.windows import Parts, own_windows, parted, windows
from dola.model.adapters_on import adapter_names
from dola.model.anatomy import Anatomy
from dola.model.hidden import captured, few_logits, window
from dola.model.identity import what_model
from dola.model.stored import is_quantized
from dola.text.encoding import Encoder

TOKENS = 40_000
"""Positions that a lens is fitted on, if nothing else is asked for."""


@torch.no_grad()
def fit_lens(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str] | None = None,
    *,
    layers: str | Iterable[int] = "all",
    tokens: int = TOKENS,
    refine: int = 0,
    output: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Lens:
    """Fit a lens to a model: one linear map and bias for each layer, by least squares to the last layer's normed state.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: Texts to fit on. None lets the model write them: they are sampled from it, seed 0.
        layers: The layers to fit, as in `DoLaConfig`.
        tokens: Most positions to fit on; an eighth more are held out to judge the lens.
        refine: Number of steps that then lower KL(mature || layer) on the same text, from the least-squares maps. They are
            seeded; after an interruption they begin again. Each costs a forward of one window, and two head products a layer.
        output: Save the lens to this file. What is done so far is kept beside it, in OUTPUT.partial: the same call continues
            there after an interruption, and removes it in the end.
        progress: Whether to show a progress bar.

    Returns:
        The lens. `lens.facts["table"]` says of each layer how well it reads text that was held out; of a
        refined lens `start_kl` and `start_top1` too, those of its least-squares maps.

    Raises:
        InputError: Too little text; a number of steps below 0; or OUTPUT.partial belongs to a different fit.
        LensError: The fit gave NaN, the file cannot be written, or the head passes no gradients to refine by.
        LayersError: Layers that the model does not have.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> lens = dola.fit_lens(model, tokenizer, ["The Eiffel Tower is in Paris. " * 8] * 8, layers=[20, 25])
        >>> lens.layers, lens.width
        ((20, 25), 576)
    """
    anatomy = Anatomy.of(model)
    chosen = anatomy.candidates(layers if isinstance(layers, str) else tuple(layers))
    if tokens < 1:
        raise InputError(f"tokens={tokens} is out of range; allowed is 1 or more.", hint=f"tokens={TOKENS}")
    check_refine(anatomy, refine)
    encoder = Encoder.of(model, tokenizer)
    given = None if texts is None else parted(windows(encoder, texts, window(anatomy.lm)), tokens)

    def what_is_fitted() -> dict[str, str]:
        text = "the model's own samples" if given is None else given.digest
        return {**what_model(anatomy.lm), "layers": str(chosen), "tokens": str(tokens), "text": text}

    with Partial.open(None if output is None else partial_of(output), what_is_fitted) as state:
        parts = given or parted(own_windows(anatomy, encoder, tokenizer, tokens, state, progress=progress), tokens)
        _add_up(anatomy, chosen, parts.fitted, state, progress=progress)
        lens = _solved(anatomy, chosen, state.sums, _facts(anatomy, parts, own=given is None))
        lens.facts["table"] = _judged(anatomy, lens, parts)
        if refine:
            steps = _states(anatomy, chosen, drawn(parts.fitted, refine))
            before, lens = lens, refined(anatomy, lens, state.sums, steps, refine, progress=progress)
            lens.facts["table"] = with_start(_judged(anatomy, lens, parts), before.facts["table"])
        if output is not None:
            lens.save(output)
    return lens


def _judged(anatomy: Anatomy, lens: Lens, parts: Parts) -> list[dict[str, Any]]:
    table = Table(anatomy, lens)
    for states, target in _states(anatomy, lens.layers, parts.held):
        table.add(states, target)
    return table.rows()


def partial_of(output: str | os.PathLike[str]) -> Path:
    """The file that keeps what was done of a lens that is to be saved to `output`."""
    return Path(f"{os.fspath(output)}.partial")


def _states(
    anatomy: Anatomy, layers: Sequence[int], rows: Iterable[Sequence[int]]
) -> Iterator[tuple[dict[int, Tensor], Tensor]]:
    """Yield for each window the states [n, d] of these layers and of the last one, and the normed last state [n, d]."""
    lm, few = anatomy.lm, few_logits(anatomy.lm)
    for place, row in enumerate(rows):
        ids = torch.tensor([list(row)], device=lm.device)
        with captured(anatomy, layers) as hidden:
            logits = lm(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **few).logits
            if place == 0:
                anatomy.check_readout(hidden[anatomy.num_layers][0, -1:], logits[0, -1:])
        states = {layer: value[0] for layer, value in hidden.items()}
        last = states[anatomy.num_layers]
        yield states, last if anatomy.final_norm is None else anatomy.final_norm(last)


def _add_up(anatomy: Anatomy, layers: Sequence[int], rows: Sequence[Sequence[int]], state: Partial, *, progress: bool) -> None:
    """Bring the sums to the end of the text."""
    count, there = sum(map(len, rows)), sum(map(len, rows[: state.done]))
    with tqdm(total=count, initial=there, unit="token", desc="fit", disable=None if progress else True) as bar:
        for states, target in _states(anatomy, layers, rows[state.done :]):
            with state.adding():
                for layer in layers:
                    _sums_of(state, layer, states[layer]).add(states[layer], target)
            state.save_now_and_then()
            bar.update(len(target))
    state.save()


def _sums_of(state: Partial, layer: int, states: Tensor) -> Sums:
    """The sums of a layer, where its states are."""
    found = state.sums.get(layer)
    if found is None:
        found = Sums.empty(states.shape[-1], states.device)
    elif found.inputs.device != states.device:  # from a file
        found = Sums(found.inputs.to(states.device), found.products.to(states.device))
    state.sums[layer] = found
    return found


def _solved(anatomy: Anatomy, layers: tuple[int, ...], sums: dict[int, Sums], facts: dict[str, Any]) -> Lens:
    solved = [sums[layer].solve() for layer in layers]
    weight, bias, mean = (torch.stack(each).float().cpu() for each in zip(*solved, strict=True))
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise LensError("The fit of the lens gave NaN or infinite numbers.", hint="fit it on more, or on other text")
    return Lens("linear", layers, weight, bias, mean, facts, statistics(anatomy))


def _facts(anatomy: Anatomy, parts: Parts, *, own: bool) -> dict[str, Any]:
    """What a lens says of itself."""
    return {
        "model": name_of(anatomy),
        "revision": getattr(anatomy.lm.config, "_commit_hash", None),
        "num_layers": anatomy.num_layers,
        "dtype": str(anatomy.lm.dtype).removeprefix("torch."),
        "quantized": is_quantized(anatomy.lm),
        "adapters": adapter_names(anatomy.lm),
        "tokens": sum(map(len, parts.fitted)),
        "held_out": sum(map(len, parts.held)),
        "text": "the model's own samples" if own else "given texts",
        "text_sha256": parts.digest,
        "ridge": RIDGE,
        "refined": 0,
        "dola": __version__,
    }
