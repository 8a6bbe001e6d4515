"""Forwards over many sequences in which shared beginnings run once.

The sequences are put in order, so that those with a common beginning are neighbours, and run as a tree: what some of them
share goes through the model once, with a batch of one; its cache is copied for what comes behind it. What a sequence shares
with no other runs behind that cache in a batch with its siblings, padded on the right, where nothing reads the padding.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from dola.model.hidden import cache_name, few_logits

LEAST_SHARED = 8
"""Shared tokens below which a forward of their own does not pay."""
MOST_NESTED = 24
"""Caches that are kept at a time: a text that grows step by step would have one for each step."""


@dataclass(frozen=True)
class Line:
    """A sequence: its tokens, and the first position at which a caller reads."""

    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Batch:
    """Sequences whose ends run together behind what they share.

    Attributes:
        rows: Indices of the sequences.
        start: How many tokens have run before: position i of the batch is position `start + i` of each sequence.
    """

    rows: tuple[int, ...]
    start: int


def plan(sequences: Sequence[Line], *, batch_tokens: int, share: bool = True) -> Node:
    """The tree of `sequences`: which tokens run once, and which batches behind them. The same for the same sequences."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].tokens)
    shared = [_common(sequences[a], sequences[b]) if share else 0 for a, b in pairwise(order)]
    return _node(sequences, order, shared, (0, 0), batch_tokens, 0)


@dataclass(frozen=True)
class Node:
    """Tokens that some sequences share, from `start` to `end`, and what comes behind them."""

    start: int
    end: int
    example: int
    batches: tuple[Batch, ...]
    children: tuple[Node, ...]

    def all_batches(self) -> Iterator[Batch]:
        """Those of this node and of all below it, in the order in which they run."""
        yield from self.batches
        for child in self.children:
            yield from child.all_batches()


def _common(a: Line, b: Line) -> int:
    """How many tokens two sequences share before either is read."""
    most = min(a.first, b.first)
    return next((i for i in range(most) if a.tokens[i] != b.tokens[i]), most)


def _node(
    sequences: Sequence[Line], order: list[int], shared: list[int], span: tuple[int, int], batch_tokens: int, depth: int
) -> Node:
    """The node for sequences `order`, neighbours of which share `shared` tokens, all of them the first `end`."""
    start, end = span
    alone, children = [], []
    at = 0
    if depth == MOST_NESTED:
        return Node(start, end, order[0], tuple(_batches(sequences, order, end, batch_tokens)), ())
    while at < len(order):
        stop = at + 1
        while stop < len(order) and shared[stop - 1] >= end + LEAST_SHARED:
            stop += 1
        if stop - at == 1:
            alone.append(order[at])
        else:
            inner = shared[at : stop - 1]
            children.append(_node(sequences, order[at:stop], inner, (end, min(inner)), batch_tokens, depth + 1))
        at = stop
    return Node(start, end, order[0], tuple(_batches(sequences, alone, end, batch_tokens)), tuple(children))


def _batches(sequences: Sequence[Line], alone: list[int], start: int, batch_tokens: int) -> Iterator[Batch]:
    """Sequences of like length together, as many as have `batch_tokens` tokens with their padding and their cache."""
    rows: list[int] = []
    for index in sorted(alone, key=lambda i: (len(sequences[i].tokens), i)):
        if rows and (len(rows) + 1) * len(sequences[index].tokens) > batch_tokens:
            yield Batch(tuple(rows), start)
            rows = []
        rows.append(index)
    if rows:
        yield Batch(tuple(rows), start)


class Runner:
    """Runs a tree through a model.

    Args:
        lm: The causal LM.
        sequences: Those of the tree.
        wanted: Which batches are to run; what only others need does not run.
        before: Called before each forward, with the batch that it runs or, for what others share, None.
        whole: Whether the logits of all positions are needed.

    Attributes:
        logits: Of the last forward, [B, T, V] or of the last position alone.
    """

    def __init__(
        self,
        lm: Any,
        sequences: Sequence[Line],
        wanted: set[Batch],
        before: Callable[[Batch | None], None],
        *,
        whole: bool = False,
    ) -> None:
        self._lm, self._sequences, self._wanted, self._before = lm, sequences, wanted, before
        self._few, self._cache_name = {} if whole else few_logits(lm), cache_name(lm)
        self.logits: Tensor | None = None

    @torch.no_grad()
    def run(self, node: Node, cache: Any = None) -> Iterator[Batch]:
        """Yield each wanted batch right after its forward."""
        if not any(batch in self._wanted for batch in node.all_batches()):
            return
        if node.end > node.start:
            tokens = self._sequences[node.example].tokens[node.start : node.end]
            self._before(None)
            cache = DynamicCache(config=self._lm.config) if cache is None else copy.deepcopy(cache)
            cache = self._forward([tokens], cache, node.start)
        for batch in node.batches:
            if batch in self._wanted:
                behind = None if cache is None else copy.deepcopy(cache)
                if behind is not None and len(batch.rows) > 1:
                    behind.batch_repeat_interleave(len(batch.rows))
                self._before(batch)
                self._forward([self._sequences[row].tokens[batch.start :] for row in batch.rows], behind, batch.start)
                yield batch
        for child in node.children:
            yield from self.run(child, cache)

    def _forward(self, rows: Sequence[tuple[int, ...]], cache: Any, cached: int) -> Any:
        longest = max(map(len, rows))
        padded: Tensor = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=self._lm.device)
        use = {"use_cache": False} if cache is None else {self._cache_name: cache, "use_cache": True}
        mask = torch.ones(len(rows), cached + longest, dtype=torch.long, device=padded.device)  # what some models go by
        output = self._lm(padded, attention_mask=mask, **use, **self._few)
        self.logits = output[0] if isinstance(output, tuple) else output.logits
        return None if cache is None else getattr(output, self._cache_name)


def shares_prefixes(lm: Any) -> bool:
    """Whether a cache of `lm` can be copied and continued: not that of models with a recurrent state."""
    return not getattr(lm, "_is_stateful", False)
