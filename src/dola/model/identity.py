"""What tells one model, and one state of its weights, from another."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import transformers

from dola._version import __version__
from dola.model.adapters_on import adapted

SAMPLED = 64
"""Number of elements of each weight that identify a model."""


def what_model(model: Any) -> dict[str, str]:
    """Properties of a model and of the software that must match for results to be resumed."""
    return {
        "model": f"{model.config.name_or_path} ({type(model).__name__}, {model.dtype})",
        "weights": weights_digest(model),
        "versions": f"dola {__version__}, torch {torch.__version__}, transformers {transformers.__version__}",
    }


def weights_digest(model: Any) -> str:
    """SHA-256 of some elements of each weight, read in milliseconds.

    Training and merged adapters change nearly all elements of the weights that they change, so the digest changes with them.
    Switching an adapter on or off changes no weight, so the names of those that act count too.
    The version counters of tensors would not do: `weight.data += ...`, which PEFT writes, leaves them as they are.
    """
    digest = hashlib.sha256()
    for name, weight in model.named_parameters():
        digest.update(f"{name} {tuple(weight.shape)}".encode())
        if weight.device.type != "meta":  # offloaded to disk
            flat = weight.detach().flatten()
            digest.update(flat[:: max(1, len(flat) // SAMPLED)].float().cpu().numpy().tobytes())
    for path, _, adapters in adapted(model):
        digest.update(f"{path} {adapters}".encode())
    return digest.hexdigest()
