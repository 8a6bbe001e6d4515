"""Pseudo-random numbers by position: the same seed and position give the same number, whatever else is in the batch."""

from __future__ import annotations

from torch import Tensor

BITS = 32
MASK = 2**BITS - 1


def uniform(seed: int, positions: Tensor) -> Tensor:
    """Numbers in [0, 1) for integer positions, of the same shape, in float64 or the widest dtype of the device.

    They come from an integer hash, which every device and compiler computes identically.
    """
    drawn = _mixed(_mixed(positions.long() & MASK) ^ (seed & MASK))
    wide: Tensor = drawn.float() if positions.device.type == "mps" else drawn.double()
    return wide.div(2**BITS).clamp(max=1 - 2**-24)


def _mixed(x: Tensor) -> Tensor:
    """Permute 32-bit integers with Chris Wellons' lowbias32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & MASK
    return x ^ (x >> 16)
