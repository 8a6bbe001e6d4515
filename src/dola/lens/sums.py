"""Normal equations of least squares: all that a fit keeps of the positions that it has seen."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dola.errors import LensError

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
        mean, covariance = self._centered(ridge)
        target = self.products[-1] / n
        cross = self.products[:-1] / n - torch.outer(mean, target)
        weight = torch.linalg.solve(covariance, cross, left=True).T
        return weight, target - weight @ mean, mean

    def white(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """The mean state [d], and L [d, d], lower: states are mean + L z, where z has mean 0 and covariance 1, less the ridge.

        Raises:
            LensError: The states do not vary.
        """
        mean, covariance = self._centered(ridge)
        root, failed = torch.linalg.cholesky_ex(covariance)
        if failed:
            raise LensError("The states of a layer do not vary enough to refine its map.", hint="fit it on more text")
        return mean, root

    def _centered(self, ridge: float) -> tuple[Tensor, Tensor]:
        """The mean state [d], and the covariance [d, d] with the ridge."""
        n = self.inputs[-1, -1]
        mean = self.inputs[-1, :-1] / n
        covariance = self.inputs[:-1, :-1] / n - torch.outer(mean, mean)
        diagonal = covariance.diagonal()
        diagonal += ridge * diagonal.mean().clamp(min=torch.finfo(torch.float64).tiny)
        return mean, covariance
