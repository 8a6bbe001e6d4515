"""Resolve "low" | "high" | "all" | "last:10" | indices to the candidate layers of a model.

Layers are numbered as in Hugging Face's `hidden_states`: 0 is the embedding output, j is the residual stream after j blocks,
N (the number of blocks) is the mature layer. Candidates are therefore in 0 .. N-1.
"""

import functools
import logging
import operator
import re
from collections.abc import Iterable
from typing import Any

from dola.errors import LayersError

logger = logging.getLogger("dola")

BUCKETS = ("low", "high", "all")

WINDOW = re.compile(r"last:([1-9][0-9]*)")
"""A window: this many consecutive layers below the last one, or all of them in a model with fewer."""


def parse(given: object) -> Any:
    """Convert text that lists layer numbers ("24,28" or "24+28") to a tuple, as a configuration expects it.

    Any other value is returned unchanged; the configuration checks it.
    """
    if not isinstance(given, str):
        return given
    text = given.strip()
    try:
        return tuple(int(number) for number in re.split("[,+]", text))
    except ValueError:
        return text if is_named(text) else given


def is_named(layers: object) -> bool:
    """Whether this is a valid name of layers: a bucket, or a window such as "last:10"."""
    return isinstance(layers, str) and (layers in BUCKETS or WINDOW.fullmatch(layers) is not None)


def spelled(layers: object) -> str:
    """Layers as text, the inverse of `parse`."""
    return ",".join(map(str, layers)) if isinstance(layers, (list, tuple)) else str(layers)


def candidate_layers(layers: str | Iterable[object], num_layers: int, *, tied: bool) -> tuple[int, ...]:
    """Resolve `layers` for a model.

    The buckets are those of the paper (section 2.2, appendix) as transformers 4 implemented them: every second layer of the
    lower or upper half, within the outer 20 layers for models deeper than 40.

    Args:
        layers: "low", "high", "all" (every layer below the last), a window such as "last:10", or indices.
        num_layers: N, the number of blocks.
        tied: Whether the head shares the embedding's weights. The readout of layer 0 is then nearly the identity, so the low
            bucket starts higher up.

    Raises:
        LayersError: An index outside 0 .. N-1, a duplicate, or a bucket that is empty for this depth.
    """
    if not isinstance(layers, str):
        return check_indices(layers, num_layers)
    n = num_layers
    start = 0 if not tied or n < 2 else 1 if n == 2 else 2
    if layers == "all":
        found = range(n)
    elif layers == "high":
        found = range(n // 2 if n <= 40 else n - 20, n, 2)
    elif layers == "low":
        found = range(start, start + 1) if start == n // 2 else range(start, n // 2 if n <= 40 else 20, 2)
    elif window := WINDOW.fullmatch(layers):
        _say_if_deeper(layers, int(window[1]), n)
        found = range(max(0, n - int(window[1])), n)
    else:
        raise LayersError(f"layers={layers!r} is not a bucket. Buckets: {', '.join(BUCKETS)}; a window is last:10.", hint=_HINT)
    if not found:
        raise LayersError(
            f'layers="{layers}" holds no layer in a model of {n} layers{" with tied embeddings" if tied else ""}; '
            f"its candidate layers are 0 to {n - 1}.",
            hint=f'use layers="high" or name layers, for instance layers=[{n - 1}]',
        )
    return tuple(found)


@functools.cache  # one warning for each window and model depth
def _say_if_deeper(layers: str, window: int, num_layers: int) -> None:
    """Log a warning if the window is larger than the model."""
    if window > num_layers:
        logger.warning(
            'layers="%s": the model has %d layers below the last one, and all of them are taken.', layers, num_layers
        )


def _nearest(layer: int, num_layers: int | None) -> int:
    """A layer that exists, near one that a user named."""
    return max(0, layer) if num_layers is None else min(max(0, layer), num_layers - 1)


def check_indices(layers: object, num_layers: int | None = None) -> tuple[int, ...]:
    """Layer indices as a tuple of int, checked against the model's depth if it is given.

    Raises:
        LayersError: Not a sequence of integers; empty; duplicates; negative; or, for a known depth N, above N-1.
    """
    allowed = "0, 1, ... up to the last layer but one"
    if num_layers is not None:
        allowed = f"0 to {num_layers - 1} (the model has {num_layers} layers; {num_layers} is the mature layer itself)"
    if isinstance(layers, (str, bytes)) or not isinstance(layers, Iterable):
        raise LayersError(
            f"layers={layers!r} is neither a bucket nor a list of layer indices; allowed are "
            f"{', '.join(BUCKETS)}, a window such as last:10, or indices in {allowed}.",
            hint=f"a list with one index is one fixed premature layer: layers=[{_nearest(layers, num_layers)}]"
            if isinstance(layers, int)
            else _HINT,
        )
    given = list(layers)
    if not given:
        raise LayersError(f"layers=[] names no candidate layer; allowed are indices in {allowed}.", hint=_HINT)
    indices = tuple(_index(value, given, allowed) for value in given)
    for position, index in enumerate(indices):
        if index < 0:
            raise LayersError(
                f"layer {index} in layers={given} is negative; allowed are {allowed}. Layers are not counted from the end.",
                hint=f"write layers=[{num_layers + index}]" if num_layers and num_layers + index >= 0 else _HINT,
            )
        if num_layers is not None and index >= num_layers:
            what = (
                "is the last (mature) layer and cannot be a candidate: contrasting it with itself gives zero everywhere"
                if index == num_layers
                else "does not exist"
            )
            raise LayersError(f"layer {index} in layers={given} {what}; allowed are {allowed}.", hint=_HINT)
        if index in indices[:position]:
            raise LayersError(
                f"layer {index} is listed twice in layers={given}; allowed are distinct indices in {allowed}.",
                hint=f"write layers={sorted(set(indices))}",
            )
    return indices


def _index(value: object, given: list[object], allowed: str) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise LayersError(f"layer {value!r} in layers={given} is not an integer; allowed are {allowed}.", hint=_HINT)
    return operator.index(value)


_HINT = 'layers="high" suits short factual answers, layers="low" longer reasoning; or name layers: layers=[24, 28]'
