"""The run of a multiple-choice task: each block of items is scored under all live rows in one pass over the model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from dola.evidence.choice import joined, measure_ways, score_items, static_recipes
from dola.evidence.course import Block, Table
from dola.evidence.forecast import LEAST, Forecast
from dola.evidence.row_answers import Chosen, chosen_answers
from dola.evidence.rows import with_seed
from dola.evidence.sample import Sample
from dola.evidence.ways import LENGTH, LENGTH_NATS, STATIC, Role, Way
from dola.methods.config import DoLaConfig, MethodConfig
from dola.scoring.gauge import Cost, Gauge
from dola.scoring.recipe import Recipe
from dola.scoring.score import Scores
from dola.tasks import ChoiceTask


def recipes_of(model: Any, ways: Sequence[Way], own: MethodConfig) -> tuple[dict[str, Recipe], dict[str, Recipe]]:
    """The recipes that some ways need, by name, and those of them that the static way chooses from."""
    by_layer = any(way.role is Role.STATIC for way in ways)
    static = static_recipes(model, own) if by_layer and isinstance(own, DoLaConfig) else {}
    return {way.name: way.recipe for way in ways if way.recipe is not None} | static, static


class ScoredRun:
    """Scores a multiple-choice task block by block.

    Args:
        model: The model.
        tokenizer: Its tokenizer.
        task: The task.
        own: Settings of the DoLa rows.
        results: The file of results, if any.
        progress: Whether to show a progress bar.
        forecast: Announces how long the run takes, if it is to be announced.

    Attributes:
        scores: Scores of all items so far; None before the first block.
        chosen: By metric: the layers that the static way chose.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        task: ChoiceTask,
        own: MethodConfig,
        *,
        results: str | Path | None,
        progress: bool,
        forecast: Forecast | None = None,
    ) -> None:
        self._model, self._tokenizer, self._task, self._own = model, tokenizer, task, own
        self._results, self._progress, self._forecast = results, progress, forecast
        self.scores: Scores | None = None
        self.chosen: dict[str, list[str]] = {}
        self._values: Table = {}
        self._static: list[str] = []
        self._looks: tuple[int, ...] = ()

    def run(self, block: Block, live: list[Way]) -> Table:
        """Score a block under the live ways. Returns the values of all items so far."""
        own_draws = with_seed(live, block.seed())
        recipes, static = recipes_of(self._model, own_draws, self._own)
        scores = score_items(
            self._model,
            self._tokenizer,
            block.items,
            recipes,
            results=block.results(self._results),
            facts=block.facts,
            progress=self._progress,
            gauge=self._gauge(block),
        )
        self.scores = scores if self.scores is None else joined(self.scores, scores)
        items = block.sample.items[: len(self.scores.tokens)]
        seed = block.sample.seed
        found, chosen = measure_ways(self._task, items, self.scores, live, static=static, seed=seed, ends=block.looks)
        self._static, self._looks = self._static or list(static), block.looks
        self._values |= found
        self.chosen |= chosen
        return self._values

    def _gauge(self, block: Block) -> Gauge | None:
        """What takes the time of the first block, and announces that of all items."""
        forecast = self._forecast
        if forecast is None or block.number:
            return None
        parts = len(block.sample.items) / len(block.items)

        def sets() -> dict[str, dict[str, Recipe]]:
            return {name: recipes_of(self._model, ways, self._own)[0] for name, ways in forecast.sets().items()}

        def tell(cost: Cost) -> None:
            forecast.say(parts * cost.seconds, {name: parts * each for name, each in cost.others.items()})

        return Gauge(sets, tell, least=LEAST / parts)

    def notes(self, ways: Sequence[Way]) -> list[str]:
        """What a reader must know of the scores."""
        assert self.scores is not None
        notes = [
            *_ties(self.scores, [way.name for way in ways if way.name in self.scores.values]),
            *(f"{STATIC}: for {metric}, {_listed(names)}." for metric, names in self.chosen.items() if names),
        ]
        if "mc2" in self._values[LENGTH]:
            notes.append(f"{LENGTH} gives each token {LENGTH_NATS:g} nats; mc2 of such a scorer depends on that number.")
        return notes

    def answers(self, sample: Sample, ways: Sequence[Way], values: Table) -> dict[str, Chosen]:
        """What each way answers."""
        assert self.scores is not None
        folded = self.chosen.get(self._task.metrics[0].name, [])
        rest: dict[str, Any] = {"folded": folded, "looks": self._looks, "seed": sample.seed}
        return chosen_answers(self._task, sample.items, self.scores, ways, values, static=self._static, **rest)

    def layers(self, ways: Sequence[Way]) -> dict[str, dict[int, float]]:
        """By way: the share of tokens at which each layer was contrasted."""
        assert self.scores is not None
        return {way.name: self.scores.layer_shares(way.name) for way in ways if way.name in self.scores.values}

    def implausible(self, names: Mapping[str, Any]) -> dict[str, float]:
        """By way: the mean number of implausible tokens of a continuation."""
        assert self.scores is not None
        counts = self.scores.implausible
        return {name: fmean(count for item in counts[name] for count in item) for name in names}


def _listed(names: Sequence[str]) -> str:
    """The choices of the two halves, or those of all looks, without repetitions, and that they were chosen."""
    kept = list(dict.fromkeys(names))
    halves = {1: " on both halves", 2: ", one on each half"}.get(len(kept), "") if len(names) == 2 else ""
    return f"{' and '.join(kept)} {'was' if len(kept) == 1 else 'were'} chosen{halves}"


def _ties(scores: Scores, ways: Sequence[str]) -> list[str]:
    """Ways under which answers tie for the best score, usually all at the floor. FACTOR counts them as right."""
    found = []
    for name in ways:
        tied = sum(sorted(values)[-2:].count(max(values)) > 1 for values in scores.values[name])
        if tied:
            found.append(f"{name}: in {tied} of {len(scores.values[name])} items answers tie for the best score.")
    return found
