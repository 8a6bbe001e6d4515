"""Lists of weights' names, and what they show: which form whole layers, and which are scales of quantized weights."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import NamedTuple

SHOWN = 4
"""How many names a message lists. Names that differ only in their numbers count once."""

SCALES = re.compile(r"[._](SCB|absmax|nested_absmax|quant_map|weight_scale\w*|weight_zero_point|scale_weight|scales?|qzeros)$")


class Lists(NamedTuple):
    """Names of weights.

    Attributes:
        source: The name of the model or adapter that was loaded.
        kind: The model's class, or "adapter".
        names: All weights that the model has, in its order.
        head: Path of the language-modeling head.
        architectures: The classes that config.json names.
        missing: Weights that the file lacks.
        mismatched: Weights with another shape in the file: (shape in the file, shape in the model).
        unexpected: Weights in the file that the model cannot use.
    """

    source: str
    kind: str
    names: tuple[str, ...]
    head: str
    architectures: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    unexpected: tuple[str, ...]


def listed(names: Iterable[str]) -> str:
    """Names for a message: those that differ only in numbers as one pattern with a count, then the number of further ones."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(re.sub(r"(?<=\.)\d+(?=\.)", "*", name), []).append(name)
    shown = [alike[0] if len(alike) == 1 else f"{kind} ({len(alike)})" for kind, alike in islice(kinds.items(), SHOWN)]
    more = sum(map(len, islice(kinds.values(), SHOWN, None)))
    return ", ".join(shown) + (f", and {more} more" if more else "")


def cut_layers(lists: Lists) -> tuple[str, ...]:
    """Paths of whole layers of the file beyond the model's last one that have the same parts as the model's layers.

    Layers with other parts, such as those that predict several tokens at once, do not count.
    """
    known: dict[str, set[str]] = {}
    there = set()
    for name in lists.names:
        for path, number, rest in numbered(name):
            known.setdefault(path, set()).add(rest)
            there.add(f"{path}{number}")
    beyond: dict[str, set[str]] = {}
    for name in lists.unexpected:
        for path, number, rest in numbered(name):
            if (path in known or not known) and f"{path}{number}" not in there:
                beyond.setdefault(f"{path}{number}", set()).add(rest)
                break
    return tuple(layer for layer, rests in beyond.items() if not known or rests <= known[layer[: layer.rindex(".") + 1]])


def unscaled(lists: Lists) -> tuple[str, ...]:
    """Scales in the file that belong to quantized weights which were read as plain numbers."""
    names = set(lists.names)
    return tuple(
        name
        for name in lists.unexpected
        if (match := SCALES.search(name)) and {f"{name[: match.start()]}.weight", name[: match.start()]} & names
    )


def numbered(name: str) -> Iterable[tuple[str, int, str]]:
    """For every number in a name: the text before it, the number, the text after it."""
    for match in re.finditer(r"(?<=\.)(\d+)\.", name):
        yield name[: match.start()], int(match[1]), name[match.end() :]
