"""Runs many sequences through a model so that each shared prefix runs only once.

The sequences are sorted, so that those with a common prefix are adjacent, and run as a tree. Shared tokens go through the model
once, in a batch of one, and their cache is copied for the tokens that follow. The tokens that a sequence does not share run
after that cache in a batch with its siblings, padded on the right, where nothing reads the padding.
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
"""Fewer shared tokens than this do not justify their own forward pass."""
MOST_NESTED = 24
"""Maximum number of caches at a time: a text that grows step by step would need one for each step."""


@dataclass(frozen=True)
class Line:
    """A sequence: its tokens, and the first position at which a caller reads."""

    tokens: tuple[int, ...]
    first: int


@dataclass(frozen=True)
class Batch:
    """Sequences whose ends run together after their shared prefix.

    Attributes:
        rows: Indices of the sequences.
        start: Number of tokens that ran before: position i of the batch is position `start + i` of each sequence.
    """

    rows: tuple[int, ...]
    start: int


def plan(sequences: Sequence[Line], *, batch_tokens: int, share: bool = True) -> Node:
    """The tree of `sequences`: the tokens that run once, and the batches after them. Deterministic."""
    order = sorted(range(len(sequences)), key=lambda i: sequences[i].tokens)
    shared = [_common(sequences[a], sequences[b]) if share else 0 for a, b in pairwise(order)]
    return _node(sequences, order, shared, (0, 0), batch_tokens, 0)


@dataclass(frozen=True)
class Node:
    """Tokens that some sequences share, from `start` to `end`, and what follows them."""

    start: int
    end: int
    example: int
    batches: tuple[Batch, ...]
    children: tuple[Node, ...]

    def all_batches(self) -> Iterator[Batch]:
        """The batches of this node and of all nodes below it, in running order."""
        yield from self.batches
        for child in self.children:
            yield from child.all_batches()

    def tokens(self, sequences: Sequence[Line], wanted: set[Batch]) -> int:
        """Number of tokens that go through the model for some of the batches, padding included."""
        found = sum(child.tokens(sequences, wanted) for child in self.children)
        for batch in self.batches:
            if batch in wanted:
                found += len(batch.rows) * (max(len(sequences[row].tokens) for row in batch.rows) - batch.start)
        return found + (self.end - self.start if found else 0)


def _common(a: Line, b: Line) -> int:
    """The number of tokens that two sequences share before the caller reads either."""
    most = min(a.first, b.first)
    return next((i for i in range(most) if a.tokens[i] != b.tokens[i]), most)


def _node(
    sequences: Sequence[Line], order: list[int], shared: list[int], span: tuple[int, int], batch_tokens: int, depth: int
) -> Node:
    """The node for the sequences `order`: adjacent ones share `shared` tokens, and all of them the first `end`."""
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
    """Batches of sequences of similar length, up to `batch_tokens` tokens including padding and cache."""
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
        sequences: The sequences of the tree.
        wanted: Whether a batch is to run. Tokens that only unwanted batches need do not run.
        before: Called before each forward pass, with its batch, or with None for shared tokens.
        whole: Whether the logits of all positions are needed.

    Attributes:
        logits: Logits of the last forward pass, [B, T, V], or of its last position only.
        tokens: Number of tokens that have gone through the model so far, padding included.
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
        self.tokens = 0

    @torch.no_grad()
    def run(self, node: Node, cache: Any = None) -> Iterator[Batch]:
        """Yield each wanted batch right after its forward pass."""
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
        self.tokens += len(rows) * longest
        padded: Tensor = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=self._lm.device)
        use = {"use_cache": False} if cache is None else {self._cache_name: cache, "use_cache": True}
        mask = torch.ones(len(rows), cached + longest, dtype=torch.long, device=padded.device)  # which some models need
        output = self._lm(padded, attention_mask=mask, **use, **self._few)
        self.logits = output[0] if isinstance(output, tuple) else output.logits
        return None if cache is None else getattr(output, self._cache_name)


def shares_prefixes(lm: Any) -> bool:
    """Whether a cache of `lm` can be copied and continued; False for models with a recurrent state."""
    return not getattr(lm, "_is_stateful", False)
