"""The result of one read of the head's weights, for the mature rows together with the candidates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass
class Reading:
    """The result of one read of the head's weights, before any logit transform.

    Attributes:
        logits: The head's output for the mature row and the candidates, [K+1, ..., V].
        log_z: log sum exp of `logits`, float32 [K+1, ...], if the compiled kernel computed it.
        entropy: Entropy of their softmax in nats, float32 [K+1, ...], likewise.
        sums: If weighted sums of the candidates were read instead: their weights, [m][K]. `logits` is [m+1, ..., V] then.
    """

    logits: Tensor
    log_z: Tensor | None = None
    entropy: Tensor | None = None
    sums: tuple[tuple[float, ...], ...] | None = None

    def of(self, logits: Tensor) -> Reading:
        """This reading; `logits_only` if `logits` are not its mature row, as a model may run its head for other things."""
        if self.log_z is None:
            return self
        mature = self.logits[0]
        same = logits.data_ptr() == mature.data_ptr() or torch.equal(logits, mature.to(logits))  # False for other shapes
        return self if same else self.logits_only()

    def logits_only(self) -> Reading:
        """This reading without what the kernel found, which is not true of logits that were changed afterwards."""
        return replace(self, log_z=None, entropy=None)

    def flat(self) -> Reading:
        """This reading with one dimension of rows: [K+1, R, V] and [K+1, R]."""
        log_z, entropy = (None if each is None else each.flatten(1) for each in (self.log_z, self.entropy))
        return replace(self, logits=self.logits.flatten(1, -2), log_z=log_z, entropy=entropy)

    def rows(self, rows: slice) -> Reading:
        """Some rows of a reading with one dimension of them."""
        log_z, entropy = (None if each is None else each[:, rows] for each in (self.log_z, self.entropy))
        return replace(self, logits=self.logits[:, rows], log_z=log_z, entropy=entropy)
