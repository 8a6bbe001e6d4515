"""The result of one read of the head's weights, for the mature rows together with the candidates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Reading:
    """The result of one read of the head's weights, before any logit transform.

    Attributes:
        logits: The head's output for the mature row and the candidates, [K+1, ..., V].
        log_z: log sum exp of `logits`, float32 [K+1, ...], if the compiled kernel computed it.
    """

    logits: Tensor
    log_z: Tensor | None = None

    def of(self, logits: Tensor) -> Reading:
        """This reading, without `log_z` if `logits` are not its mature row: a model may run its head for other things first."""
        if self.log_z is None:
            return self
        mature = self.logits[0]
        same = logits.data_ptr() == mature.data_ptr() or torch.equal(logits, mature.to(logits))  # False for other shapes
        return self if same else Reading(self.logits)

    def flat(self) -> Reading:
        """This reading with one dimension of rows: [K+1, R, V] and [K+1, R]."""
        return Reading(self.logits.flatten(1, -2), None if self.log_z is None else self.log_z.flatten(1))
