"""Decides how many drafted tokens a forward pass tries, from their chance of being right and the cost of trying them.

Prompt lookup proposes the tokens that followed an earlier occurrence of the last tokens. Drafts are lossless, but not free: on
a CPU a forward pass over a dozen tokens takes longer than one over a single token, and the contrast copies its context less
often than plain decoding does. So every proposal is compared with the actual tokens, whether it was tried or not, and the next
one is tried up to the length that promises the most tokens per time. If drafts are mostly wrong that length is 0, and comparing
them costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.generation import CandidateGenerator

FORGET = 0.9
"""Weight of an earlier judgment relative to the next one, so that about ten count."""
PRIOR = {"fresh": (0.5, 1.0), "running": (0.9, 1.0)}
"""Share of drafted tokens that are right, and the weight of this guess in judgments: for the first token of a proposal, and
for one that follows a right one. Hopeful, so that the first proposal is tried."""


class Acceptance:
    """An estimate of the share of right tokens among proposed ones, in which the latest count most."""

    def __init__(self, share: float, weight: float) -> None:
        self._right, self._weight = share * weight, weight

    def judge(self, right: bool) -> None:
        """Record whether a proposed token was right."""
        self._right = FORGET * self._right + right
        self._weight = FORGET * self._weight + 1

    @property
    def share(self) -> float:
        """The estimated share, in [0, 1]."""
        return self._right / self._weight


def best_length(proposed: int, first: float, next_: float, cost: Callable[[int], float]) -> int:
    """How many of `proposed` tokens to try, from 0 to all: the number with the most expected tokens per cost.

    Args:
        proposed: Number of proposed tokens.
        first: Probability that the first is right.
        next_: Probability that a token after a right one is right.
        cost: Cost of a forward pass over a number of rows, relative to one row.
    """
    best, rate, expected, right = 0, 1 / cost(1), 1.0, first
    for count in range(1, proposed + 1):
        expected, right = expected + right, right * next_
        if expected / cost(count + 1) > rate:
            best, rate = count, expected / cost(count + 1)
    return best


class Drafts(CandidateGenerator):  # type: ignore[misc]
    """A candidate generator of transformers, without its own logits, whose proposals are cut to the length that pays off."""

    requires_model_outputs = False

    def __init__(self, source: CandidateGenerator, cost: Callable[[int], float]) -> None:
        self._source, self._cost = source, cost
        self._acceptance = {name: Acceptance(*prior) for name, prior in PRIOR.items()}
        self._pending: list[int] = []
        self._length = 0
        self._run = "fresh"

    def get_candidates(self, input_ids: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        """See `CandidateGenerator`: the tokens so far [1, T] followed by the drafts to try, [1, T + n]."""
        length = input_ids.shape[1]
        self._judge(input_ids[0, self._length :].tolist() if self._pending else [])
        candidates, _ = self._source.get_candidates(input_ids, *args, **kwargs)
        self._pending, self._length = candidates[0, length:].tolist(), length
        first, running = self._acceptance[self._run].share, self._acceptance["running"].share
        count = best_length(len(self._pending), first, running, self._cost)
        return candidates[:, : length + count], None

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        """See `CandidateGenerator`: `generate` reports how many drafts of the last step were right."""
        self._source.update_candidate_strategy(input_ids, scores, num_matches)

    def _judge(self, came: list[int]) -> None:
        """Compare the last proposal with the tokens since."""
        if not self._pending:
            self._run = "fresh"
        for proposed, token in zip(self._pending, came, strict=False):
            self._acceptance[self._run].judge(proposed == token)
            self._run = "running" if proposed == token else "fresh"
            if proposed != token:
                break
