"""Refine a lens: from the least-squares maps, some hundred steps down KL(mature || layer), the objective of tuned lenses.

A map is trained in coordinates where the states are white: h = mean + L z, W h + b = V z + c, with V and c trained. Residual
streams have a few huge dimensions, and a step of one size for all of them would be wrong for nearly all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dola.errors import InputError, LensError
from dola.lens.lens import Lens
from dola.lens.sums import Sums
from dola.model.anatomy import Anatomy

SEED = 0
"""The seed of the windows and positions that the steps draw."""
POSITIONS = 128
"""Most positions of a step, all from one window."""
RATE = 3e-3
"""Learning rate at the first step, relative to the root mean square of V. It falls to zero."""


@dataclass
class _Trained:
    """The map of one layer while it is trained."""

    mean: Tensor
    root: Tensor
    inverse: Tensor
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor, sums: Sums) -> _Trained:
        mean, root = sums.white()
        inverse = torch.linalg.solve_triangular(root, torch.eye(len(root)).to(root), upper=False)
        wide, offset = weight.to(root), bias.to(root)
        start = (wide @ root).float(), (offset + wide @ mean).float()
        return cls(mean, root, inverse, *(each.clone().requires_grad_() for each in start))

    def mapped(self, states: Tensor) -> Tensor:
        white = ((states.double() - self.mean) @ self.inverse.T).float()
        return (white @ self.weight.T + self.bias).to(states.dtype)

    def plain(self) -> tuple[Tensor, Tensor]:
        """W and b, float32 on the CPU."""
        weight = self.weight.detach().double() @ self.inverse
        return weight.float().cpu(), (self.bias.detach().double() - weight @ self.mean).float().cpu()


def check_refine(anatomy: Anatomy, steps: int) -> None:
    """Refuse what cannot be done before the fit begins.

    Raises:
        InputError: Not a number of steps.
        LensError: The head passes no gradients, as some quantized heads.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise InputError(f"refine={steps!r} is not a number of steps; allowed is 0 or more.", hint="refine=300")
    if not steps:
        return
    with torch.inference_mode(False), torch.enable_grad():
        width = anatomy.lm.config.get_text_config().hidden_size
        probe = torch.zeros(1, width, device=anatomy.lm.device, dtype=anatomy.lm.dtype, requires_grad=True)
        try:
            passes = anatomy.readout(probe, final_norm=False).requires_grad
        except RuntimeError:
            passes = False
    if not passes:
        raise LensError(
            f"A lens of {anatomy.lm.config.name_or_path} cannot be refined: its head passes no gradients.",
            hint="leave refine out: least squares needs none",
        )


def drawn(rows: Sequence[Sequence[int]], steps: int) -> list[Sequence[int]]:
    """A window for each step. A window of more tokens is drawn more often."""
    sizes = torch.tensor([float(len(row)) for row in rows])
    places = sizes.multinomial(steps, replacement=True, generator=torch.Generator().manual_seed(SEED))
    return [rows[place] for place in places.tolist()]


def refined(
    anatomy: Anatomy,
    lens: Lens,
    sums: Mapping[int, Sums],
    windows: Iterable[tuple[dict[int, Tensor], Tensor]],
    steps: int,
    *,
    progress: bool = False,
) -> Lens:
    """The lens after `steps` steps.

    Args:
        anatomy: The parts of the model.
        lens: The lens to begin with, by least squares.
        sums: The sums that it was solved from.
        windows: For each step the states [n, d] of the layers and of the last one, and anything.
        steps: Number of windows.
        progress: Whether to show a progress bar.

    Raises:
        LensError: The steps gave NaN.
    """
    trained = {layer: _Trained.of(lens.weight[place], lens.bias[place], sums[layer]) for place, layer in enumerate(lens.layers)}
    groups = [
        {"params": [each.weight, each.bias], "lr": RATE * max(float(each.weight.detach().square().mean().sqrt()), 1e-12)}
        for each in trained.values()
    ]
    adam = torch.optim.Adam(groups)
    falling = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: 1 - step / steps)
    draws = torch.Generator().manual_seed(SEED)
    for states, _ in tqdm(windows, total=steps, unit="step", desc="refine", disable=None if progress else True):
        some = torch.randperm(len(states[anatomy.num_layers]), generator=draws)[:POSITIONS]
        _step(anatomy, trained, {layer: value[some.to(value.device)] for layer, value in states.items()})
        adam.step()
        falling.step()
    weight, bias = (torch.stack(each) for each in zip(*(each.plain() for each in trained.values()), strict=True))
    if not (weight.isfinite().all() and bias.isfinite().all()):
        raise LensError("The refinement of the lens gave NaN or infinite numbers.", hint="leave refine out")
    return replace(lens, weight=weight, bias=bias, facts={**lens.facts, "refined": steps, "seed": SEED})


def _step(anatomy: Anatomy, trained: Mapping[int, _Trained], states: Mapping[int, Tensor]) -> None:
    """Set the gradients of KL(mature || layer), mean over positions. One layer at a time, for memory."""
    log_p = anatomy.readout(states[anatomy.num_layers]).float().log_softmax(dim=-1)
    for layer, each in trained.items():
        with torch.enable_grad():
            logits = anatomy.readout(each.mapped(states[layer]).to(log_p.device), final_norm=False)
            log_q = logits.float().log_softmax(dim=-1)
            kl = (log_p.exp() * (log_p - log_q)).sum(dim=-1).mean()
        each.weight.grad, each.bias.grad = torch.autograd.grad(kl, [each.weight, each.bias])
