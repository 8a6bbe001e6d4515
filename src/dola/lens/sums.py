"""Normal equations of least squares: all that a fit keeps of the positions that it has seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 1e-5
"""The ridge, as a share of the mean variance of a layer's dimensions."""


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
