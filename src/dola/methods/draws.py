"""Numbers drawn by place: the same seed and position give the same number, whatever else is in the batch."""

from __future__ import annotations

from torch import Tensor

BITS = 32
MASK = 2**BITS - 1


def uniform(seed: int, positions: Tensor) -> Tensor:
    """Numbers in [0, 1) for integer positions, of the same shape, float64 or what the device has.

    A hash, in integers that every device and compiler computes alike.
    """
    drawn = _mixed(_mixed(positions.long() & MASK) ^ (seed & MASK))
    wide: Tensor = drawn.float() if positions.device.type == "mps" else drawn.double()
    return wide.div(2**BITS).clamp(max=1 - 2**-24)


def _mixed(x: Tensor) -> Tensor:
    """A permutation of 32-bit integers: Chris Wellons' lowbias32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & MASK
    return x ^ (x >> 16)
