"""The step of an engine: on CPUs the divergences of all rows of a batch by the compiled kernel, in two passes over them."""

from __future__ import annotations

import torch
from torch import Tensor

from dola import native
from dola.decoding.step import Step


class EngineStep(Step):
    """As Step. Where divergences tie (closer than 1e-6 nats), it may choose the other layer."""

    def _compare(self, mature: Tensor, premature: Tensor, log_z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        if not native.reads(premature) or premature.dtype != mature.dtype:
            return None, None
        if len(premature) == 1 or self.config.divergence != "jsd":
            return native.log_z(premature), None
        found = [native.compare(mature, log_z, layer, jsd=True, reference=False, gains=False) for layer in premature]
        return torch.stack([layer.log_z for layer in found]), torch.stack(
            [layer.jsd for layer in found if layer.jsd is not None]
        )
