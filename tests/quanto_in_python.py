"""quanto unpacks 4-bit weights in C++, which takes half a minute to compile in each new environment. Here it is in Python."""

from types import SimpleNamespace

import torch


def unpack(packed, bits):
    """The values that lie side by side in each byte, the lowest bits first."""
    return torch.cat([packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)])


def use(monkeypatch):
    """Make quanto unpack with it until the test ends."""
    from optimum.quanto.library.extensions import get_extension

    monkeypatch.setattr(get_extension("quanto_cpp"), "_lib", SimpleNamespace(unpack=unpack))
