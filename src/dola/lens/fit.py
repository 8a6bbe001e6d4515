"""Fit a lens: least squares from each layer's state to what the head reads after the last block.

    text -> windows of tokens --forward--> states h_l, normed last state y --add up, float64--> W_l, b_l

W and b minimize |y - (W h + b)|^2 over positions, with a ridge of 1e-5 of the mean variance. Only sums are kept: one [d+1, d+1]
and one [d+1, d] matrix of float64 for each layer, whatever the length of the text. Every eighth window is
held out, up to 2,048 positions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dola._version import __version__
from dola.errors import InputError, LensError
from dola.lens.belongs import name_of
from dola.lens.fingerprint import statistics
from dola.lens.lens import Lens
from dola.lens.quality import Table
from dola.model.anatomy import Anatomy
from dola.model.hidden import captured, few_logits, window
from dola.model.stored import is_quantized
from dola.text.encoding import Encoder

RIDGE = 1e-5
"""The ridge, as a share of the mean variance of a layer's dimensions."""
LENGTH = 512
"""Most tokens of a window. Longer texts are cut into windows."""
HELD_OUT = 8
"""Every so many windows, one is held out to judge the lens."""
JUDGED = 2048
"""Held-out positions, about: reading them twice through the head at each layer takes longer than the fit."""
TOKENS = 40_000
"""Positions that a lens is fitted on, if nothing else is asked for."""
LEAST = 2
"""Fewest windows: one to fit on, one to judge."""


@dataclass
class Sums:
    """The sums of one layer: of [h, 1][h, 1]^T and of [h, 1] y^T, float64 [d+1, d+1] and [d+1, d]."""

    inputs: Tensor
    products: Tensor

    @classmethod
    def empty(cls, width: int, device: torch.device) -> Sums:
        """The sums before the first position."""
        return cls(
            torch.zeros(width + 1, width + 1, dtype=torch.float64, device=device),
            torch.zeros(width + 1, width, dtype=torch.float64, device=device),
        )

    def add(self, states: Tensor, target: Tensor) -> None:
        """Count n positions: states [n, d] and targets [n, d]."""
        h = torch.cat([states.double(), torch.ones(len(states), 1, dtype=torch.float64, device=states.device)], dim=1)
        h = h.to(self.inputs.device)
        self.inputs.addmm_(h.T, h)
        self.products.addmm_(h.T, target.to(h.device, torch.float64))

    def solve(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor, Tensor]:
        """W [d, d], b [d], and the mean state [d].

        Centered first: the bias is then not held back by the ridge, and a few huge dimensions cost no digits.
        """
        n = self.inputs[-1, -1]
        mean, target = self.inputs[-1, :-1] / n, self.products[-1] / n
        covariance = self.inputs[:-1, :-1] / n - torch.outer(mean, mean)
        cross = self.products[:-1] / n - torch.outer(mean, target)
        diagonal = covariance.diagonal()
        diagonal += ridge * diagonal.mean().clamp(min=torch.finfo(torch.float64).tiny)
        weight = torch.linalg.solve(covariance, cross, left=True).T
        return weight, target - weight @ mean, mean


@torch.no_grad()
def fit_lens(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str] | None = None,
    *,
    layers: str | Iterable[int] = "all",
    tokens: int = TOKENS,
    progress: bool = False,
) -> Lens:
    """Fit a lens to a model: one linear map and bias for each layer, by least squares to the last layer's normed state.

    Args:
        model: A causal language model.
        tokenizer: Its tokenizer.
        texts: Texts to fit on. None lets the model write them: they are sampled from it, seed 0.
        layers: The layers to fit, as in `DoLaConfig`.
        tokens: Most positions to fit on; an eighth more are held out to judge the lens.
        progress: Whether to show a progress bar.

    Returns:
        The lens. `lens.facts["table"]` says of each layer how well it reads text that was held out.

    Raises:
        InputError: Too little text.
        LensError: The fit gave NaN.
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
    if texts is None:
        from dola.lens.samples import own_texts

        rows = own_texts(anatomy, tokenizer, tokens * HELD_OUT // (HELD_OUT - 1), progress=progress)
    else:
        rows = windows(Encoder.of(model, tokenizer), texts, window(anatomy.lm) or LENGTH)
    parts = _parted(rows, tokens)
    with tqdm(total=sum(map(len, parts[0])), unit="token", desc="fit", disable=None if progress else True) as bar:
        sums = _summed(anatomy, chosen, parts[0], bar)
    solved = [sums[layer].solve() for layer in chosen]
    weight, bias, mean = (torch.stack(each).float().cpu() for each in zip(*solved, strict=True))
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise LensError("The fit of the lens gave NaN or infinite numbers.", hint="fit it on more, or on other text")
    facts = _facts(anatomy, parts, own=texts is None)
    lens = Lens("linear", chosen, weight, bias, mean, facts, statistics(anatomy))
    table = Table(anatomy, lens)
    for states, target in _states(anatomy, chosen, parts[1]):
        table.add(states, target)
    facts["table"] = table.rows()
    return lens


def windows(encoder: Encoder, texts: Iterable[str], longest: int) -> Iterator[list[int]]:
    """The tokens of texts, cut into windows. Texts of fewer than two tokens say nothing."""
    size = min(LENGTH, longest)
    for text in texts:
        ids = encoder.text(text)
        yield from (part for start in range(0, len(ids), size) if len(part := ids[start : start + size]) > 1)


def _parted(rows: Iterable[Sequence[int]], tokens: int) -> tuple[list[Sequence[int]], list[Sequence[int]]]:
    """The windows to fit on, of so many positions in all, and those that are held out."""
    fitted: list[Sequence[int]] = []
    held: list[Sequence[int]] = []
    count = 0
    for number, row in enumerate(rows):
        if number % HELD_OUT == 1 and sum(map(len, held)) < JUDGED:
            held.append(row)
            continue
        fitted.append(row[: tokens - count])
        count += len(fitted[-1])
        if count >= tokens and held:
            break
    if not fitted or not held:
        raise InputError(
            f"The text has {len(fitted) + len(held)} windows of up to {LENGTH} tokens; a lens needs {LEAST} or more.",
            hint="give more text, or none: then the model writes its own",
        )
    return fitted, held


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


def _summed(anatomy: Anatomy, layers: Sequence[int], rows: Iterable[Sequence[int]], bar: Any) -> dict[int, Sums]:
    sums: dict[int, Sums] = {}
    for states, target in _states(anatomy, layers, rows):
        for layer in layers:
            if layer not in sums:
                sums[layer] = Sums.empty(target.shape[-1], states[layer].device)
            sums[layer].add(states[layer], target)
        bar.update(len(target))
    return sums


def _facts(anatomy: Anatomy, parts: tuple[list[Sequence[int]], list[Sequence[int]]], *, own: bool) -> dict[str, Any]:
    """What a lens says of itself."""
    text = hashlib.sha256(repr([[list(row) for row in part] for part in parts]).encode()).hexdigest()
    return {
        "model": name_of(anatomy),
        "revision": getattr(anatomy.lm.config, "_commit_hash", None),
        "num_layers": anatomy.num_layers,
        "dtype": str(anatomy.lm.dtype).removeprefix("torch."),
        "quantized": is_quantized(anatomy.lm),
        "tokens": sum(map(len, parts[0])),
        "held_out": sum(map(len, parts[1])),
        "text": "the model's own samples" if own else "given texts",
        "text_sha256": text,
        "ridge": RIDGE,
        "dola": __version__,
    }
