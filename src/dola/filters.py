"""Sampling without the filters that a model's own generation config asks for."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NO_FILTERS = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
"""Arguments of `generate` that change nothing. None would not do: transformers takes it as not given."""


@contextmanager
def without_top_h(model: Any) -> Iterator[None]:
    """While inside, the model's generation config has no `top_h`, which no value of the argument switches off: at 1, the
    largest, it still leaves no more than the 100 best tokens."""
    own = model.generation_config
    if getattr(own, "top_h", None) is None:
        yield
        return
    model.generation_config = copy.deepcopy(own)
    model.generation_config.top_h = None
    try:
        yield
    finally:
        model.generation_config = own
