"""Takes the time of a pass while it begins, and says what the whole pass takes, and what other recipes would.

The first batches are those of the pass itself, so that nothing is computed twice. Other recipes score some tokens of the same
batch. Where they read layers that the pass does not capture, the mature layer's state is read in their place: a layer's readout
takes as long whatever it reads.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from dola.errors import DolaError
from dola.model.anatomy import Anatomy
from dola.scoring.folds import LayerScorer
from dola.scoring.recipe import Recipe

SECONDS = 3.0
"""Time of a pass before it is extrapolated."""
ROWS = 64
"""Tokens that other recipes score."""


@dataclass(frozen=True)
class Cost:
    """Seconds of a pass.

    Attributes:
        seconds: With its own recipes.
        others: With other recipes, by name.
    """

    seconds: float
    others: dict[str, float]


class Gauge:
    """Takes the time of one pass.

    Args:
        others: Returns further recipes, by name; called if the pass takes `least` seconds or more.
        tell: Called once with the cost, unless the pass takes less than `least` seconds.
        least: See `tell`.
        after: Seconds of the pass before it is extrapolated.
    """

    def __init__(
        self,
        others: Callable[[], Mapping[str, Mapping[str, Recipe]]],
        tell: Callable[[Cost], None],
        *,
        least: float,
        after: float = SECONDS,
    ) -> None:
        self._others, self._tell, self._least, self._after = others, tell, least, after
        self._told = False

    def begin(self, scorer: LayerScorer, *, tokens: int, targets: int) -> None:
        """A pass begins.

        Args:
            scorer: What scores its tokens.
            tokens: Tokens that are to go through the model.
            targets: Tokens that are to be scored.
        """
        self._scorer, self._tokens, self._targets = scorer, tokens, targets
        self._forward = self._scoring = 0.0
        self._scored = 0
        self._clock = time.perf_counter()

    def ran(self) -> None:
        """The forwards of a batch have ended."""
        self._forward += self._lap()

    def scored(self, tokens: int, hidden: Mapping[int, Tensor], targets: Tensor) -> None:
        """A batch has been scored.

        Args:
            tokens: Tokens that have gone through the model so far.
            hidden: Residual streams of the batch at the positions before its targets.
            targets: The tokens that were scored.
        """
        self._scoring += self._lap()
        self._scored += len(targets)
        if not self._told and self._forward + self._scoring >= min(self._after, self._least):
            self._told = True
            self._say(tokens, hidden, targets)
            self._clock = time.perf_counter()

    def _say(self, tokens: int, hidden: Mapping[int, Tensor], targets: Tensor) -> None:
        forward = self._forward * max(1.0, self._tokens / tokens)
        scoring = self._scoring * max(1.0, self._targets / self._scored)
        if forward + scoring < self._least:
            return
        others = {}
        with unsaid():
            for name, recipes in self._others().items():
                if dict(recipes) == self._scorer.recipes:
                    others[name] = forward + scoring
                elif (each := _seconds(self._scorer.anatomy, recipes, hidden, targets)) is not None:
                    others[name] = forward + each * self._targets
        self._tell(Cost(forward + scoring, others))

    def _lap(self) -> float:
        _finish(self._scorer.anatomy.lm.device)
        before, self._clock = self._clock, time.perf_counter()
        return self._clock - before


@contextmanager
def unsaid() -> Iterator[None]:
    """Drop what this thread logs: remarks on rows that nobody chose."""
    here, logger = threading.get_ident(), logging.getLogger("dola")

    def elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    logger.addFilter(elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(elsewhere)


def _seconds(anatomy: Anatomy, recipes: Mapping[str, Recipe], hidden: Mapping[int, Tensor], targets: Tensor) -> float | None:
    """Seconds for each token that some recipes score; None where the model cannot be scored with one of them."""
    rows = min(ROWS, len(targets))
    state = hidden[anatomy.num_layers][:rows]
    try:
        scorer = LayerScorer(anatomy, recipes)
    except DolaError:
        return None
    uniform = {name: torch.zeros(rows) for name, recipe in recipes.items() if recipe.premature == "random"}
    start = time.perf_counter()
    scorer.score(dict.fromkeys((*scorer.layers, anatomy.num_layers), state), targets[:rows], uniform)
    _finish(state.device)
    return (time.perf_counter() - start) / rows


def _finish(device: torch.device) -> None:
    """Wait for a device that computes while Python continues."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
