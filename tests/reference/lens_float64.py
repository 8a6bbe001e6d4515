"""Lenses by their formulas in float64, one position at a time. Shares no code with `dola`."""

import torch
from torch import Tensor


def least_squares(states: Tensor, targets: Tensor, ridge: float = 1e-5) -> tuple[Tensor, Tensor]:
    """W and b that minimize the mean of |y - W h - b|^2, plus the ridge times the mean variance of h times |W|^2.

    By QR of the centered states with the ridge's rows below them: other arithmetic than normal equations.
    """
    h, y = states.double(), targets.double()
    center, middle = h.mean(dim=0), y.mean(dim=0)
    variance = (h - center).square().mean(dim=0).mean()
    rows = torch.eye(h.shape[1], dtype=torch.float64) * (ridge * variance * len(h)).sqrt()
    a = torch.cat([h - center, rows])
    b = torch.cat([y - middle, torch.zeros(h.shape[1], y.shape[1], dtype=torch.float64)])
    weight = torch.linalg.lstsq(a, b).solution.T
    return weight, middle - weight @ center


def linear(weight: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    """What the head is given: W h + b."""
    return weight.double() @ state.double() + bias.double()


def tuned(weight: Tensor, bias: Tensor, state: Tensor) -> Tensor:
    """What the final norm is given: h + A h + b."""
    return state.double() + weight.double() @ state.double() + bias.double()
