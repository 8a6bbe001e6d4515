"""Evaluates multiple-choice tasks: scores all ways in one pass over the model, and computes the metrics of each item."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

from dola.evidence.statistics import folds
from dola.evidence.ways import LENGTH_NATS, Role, Way, static_layers, static_name
from dola.methods.config import DoLaConfig
from dola.model.anatomy import Anatomy
from dola.scoring.gauge import Gauge
from dola.scoring.recipe import Recipe
from dola.scoring.score import Scores, score
from dola.tasks import ChoiceTask
from dola.tasks.items import ChoiceItem

Values = dict[str, list[float]]
"""Metric -> its value for each item."""


def score_items(
    model: Any,
    tokenizer: Any,
    items: Sequence[ChoiceItem],
    recipes: Mapping[str, Recipe],
    *,
    results: str | Path | None = None,
    facts: Mapping[str, str] | None = None,
    progress: bool = True,
    gauge: Gauge | None = None,
) -> Scores:
    """`dola.score` of a task's items."""
    contexts, continuations = [item.context for item in items], [item.continuations for item in items]
    run: dict[str, Any] = {"results": results, "facts": facts, "progress": progress, "gauge": gauge}
    return score(model, tokenizer, contexts, continuations, recipes, **run)


def static_recipes(model: Any, own: DoLaConfig) -> dict[str, Recipe]:
    """One recipe for each fixed layer that the static way chooses from."""
    anatomy = Anatomy.of(model)
    layers = static_layers(anatomy.num_layers, tied=anatomy.tied)
    return {static_name(layer): Recipe(replace(own, layers=[layer])) for layer in layers}


def measure(task: ChoiceTask, items: Sequence[ChoiceItem], scores: Scores, name: str) -> Values:
    """The task's metrics under one of the scored recipes, of the items that it has."""
    return _measured(task, items[: len(scores.values[name])], lambda i: scores.values[name][i], scores.tokens)


def measure_length(task: ChoiceTask, items: Sequence[ChoiceItem], scores: Scores, *, seed: int) -> Values:
    """The task's metrics of a scorer that gives each token LENGTH_NATS, so that only length counts.

    Answers of the same length tie, which a model's scores never do, and tasks differ in how they decide ties: in FACTOR the
    true ending wins, which would make this scorer right on every item by its mean per token. So ties are broken at random.
    """
    return _measured(task, items, lambda i: length_scores(items[i], scores.tokens[i], seed), scores.tokens)


def length_scores(item: ChoiceItem, tokens: Sequence[int], seed: int) -> list[float]:
    """The scores of that scorer for the answers of one item."""
    chance = random.Random(f"{seed} {item.id}")
    return [count * (LENGTH_NATS + 1e-3 * chance.random()) for count in tokens]


def joined(first: Scores, then: Scores) -> Scores:
    """The scores of some items and of further ones. A recipe that the further ones lack keeps the items that it has."""

    def both(of: Mapping[str, list[Any]], more: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        return {name: [*found, *more.get(name, [])] for name, found in of.items()}

    return Scores(
        tokens=first.tokens + then.tokens,
        values=both(first.values, then.values),
        greedy=both(first.greedy, then.greedy),
        implausible=both(first.implausible, then.implausible),
        layers=both(first.layers, then.layers),
        truncated=[*first.truncated, *(len(first.tokens) + item for item in then.truncated)],
    )


def measure_ways(
    task: ChoiceTask,
    items: Sequence[ChoiceItem],
    scores: Scores,
    ways: Sequence[Way],
    *,
    static: Iterable[str],
    seed: int,
    ends: Sequence[int] = (),
) -> tuple[dict[str, Values], dict[str, list[str]]]:
    """The metrics of all ways, by name, and for each metric the layers of `static` that were chosen.

    Args:
        task: The task.
        items: The items that were scored. A way may have scores of the first ones alone.
        scores: Their scores.
        ways: The ways.
        static: The names of the recipes that the static way chooses from.
        seed: Seed of folds, and of ties of the length control.
        ends: For a sequential run: the number of items before each look; see `held_out_by_looks`.
    """
    found: dict[str, Values] = {}
    chosen: dict[str, list[str]] = {}
    metrics = [metric.name for metric in task.metrics]
    for way in ways:
        if way.role is Role.LENGTH:
            found[way.name] = measure_length(task, items, scores, seed=seed)
        elif way.role is Role.STATIC:
            candidates = {name: measure(task, items, scores, name) for name in static}
            count = len(next(iter(candidates.values()))[metrics[0]])
            taken = [end for end in ends if end < count]
            found[way.name], chosen = held_out_by_looks(candidates, metrics, [*taken, count], seed=seed)
        else:
            found[way.name] = measure(task, items, scores, way.name)
    return found, chosen


def held_out(
    candidates: Mapping[str, Values],
    metrics: Sequence[str],
    items: int,
    *,
    seed: int,
    k: int = 2,
    parts: Sequence[Sequence[int]] | None = None,
) -> tuple[Values, dict[str, list[str]]]:
    """Each item's value under the candidate that is best on the other folds: no item influences the choice that judges it.

    `parts` are the folds; None draws `k` of them.

    Returns:
        The values, and for each metric the candidate that was chosen for each fold. The first wins a tie. With fewer items
        than folds a choice is impossible: the values are the first candidate's, without choices.
    """
    if parts is None and items < k:
        return {metric: next(iter(candidates.values()))[metric] for metric in metrics}, {metric: [] for metric in metrics}
    parts = folds(items, k, seed) if parts is None else parts
    values: Values = {metric: [0.0] * items for metric in metrics}
    chosen: dict[str, list[str]] = {metric: [] for metric in metrics}
    for metric in metrics:
        for part in parts:
            inside = set(part)
            others = [i for i in range(items) if i not in inside]
            best = _best(candidates, metric, others)
            chosen[metric].append(best)
            for i in part:
                values[metric][i] = candidates[best][metric][i]
    return values, chosen


def held_out_by_looks(
    candidates: Mapping[str, Values], metrics: Sequence[str], ends: Sequence[int], *, seed: int
) -> tuple[Values, dict[str, list[str]]]:
    """`held_out` on the items before the first look; after it, the candidate that is best on all items of earlier looks.

    So no look changes the values of earlier items, and no item influences the choice that judges it.
    """
    start = ends[0]
    before = {name: {metric: of[metric][:start] for metric in metrics} for name, of in candidates.items()}
    values, chosen = held_out(before, metrics, start, seed=seed)
    values = {metric: list(of) for metric, of in values.items()}
    for start, end in pairwise(ends):
        for metric in metrics:
            best = _best(candidates, metric, range(start))
            chosen[metric].append(best)
            values[metric] += candidates[best][metric][start:end]
    return values, chosen


def _best(candidates: Mapping[str, Values], metric: str, items: Sequence[int]) -> str:
    """The candidate with the highest mean over some items; the first of equals."""
    return max(candidates, key=lambda name: fmean(candidates[name][metric][i] for i in items))


def _measured(
    task: ChoiceTask, items: Sequence[ChoiceItem], of: Callable[[int], Sequence[float]], tokens: Sequence[Sequence[int]]
) -> Values:
    per_item = [task.measure(item, of(i), tokens[i]) for i, item in enumerate(items)]
    return {metric.name: [values[metric.name] for values in per_item] for metric in task.metrics}
