"""How a choice among candidates is made on some items and judged on others, for `dola.tune`."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from dola.errors import InputError
from dola.evidence.candidates import OFF, Candidates
from dola.evidence.choice import held_out, measure, score_items
from dola.evidence.generation import Texts, generate_texts
from dola.evidence.sample import groups_of
from dola.evidence.statistics import folds as drawn_folds
from dola.evidence.ways import Way
from dola.scoring.recipe import Recipe
from dola.tasks import ChoiceTask, GenerationTask
from dola.text.chat import has_chat


@dataclass(frozen=True)
class Judged:
    """Means by candidate over the items used for choosing; values of off and of the choice on held-out items.

    `unfinished` counts the answers to the held-out items that the length limit cut.
    """

    means: dict[str, float]
    chosen: list[str]
    baseline: str
    off: list[float]
    chosen_values: list[float]
    groups: list[str] | None
    truncated: int
    unfinished: dict[str, int] = field(default_factory=dict)


def by_folds(
    model: Any,
    tokenizer: Any,
    task: ChoiceTask,
    items: Sequence[Any],
    candidates: Candidates,
    metric: str,
    *,
    folds: int,
    seed: int,
    run: Mapping[str, Any],
) -> Judged:
    """Choose on all folds but one and judge on that one, in turn. All candidates are scored in one pass.

    Raises:
        InputError: The items cannot be split so; see also `dola.score`.
    """
    if not 2 <= folds <= len(items):
        raise InputError(
            f"{len(items)} items cannot be split into {folds} folds. Allowed: 2 to {len(items)}.",
            hint="use 2, as the paper does",
        )
    units = _units(items)
    if folds > len(units):
        raise InputError(
            f"{len(units)} groups cannot be split into {folds} folds.", hint=f"use {max(2, len(units))}, or more groups"
        )
    parts = [sorted(i for unit in part for i in units[unit]) for part in drawn_folds(len(units), folds, seed)]
    recipes = {name: Recipe(config) for name, config in candidates.items()}
    scores = score_items(model, tokenizer, items, recipes, **run)
    values = {name: measure(task, items, scores, name) for name in candidates}
    judged, chosen = held_out(values, [metric], len(items), seed=seed, parts=parts)
    return Judged(
        means={name: fmean(of[metric]) for name, of in values.items()},
        chosen=chosen[metric],
        baseline=OFF,
        off=values[OFF][metric],
        chosen_values=judged[metric],
        groups=groups_of(items),
        truncated=len(scores.truncated),
    )


def _units(items: Sequence[Any]) -> list[list[int]]:
    """Indices of items that stay together: those of a group, because its items say something about each other."""
    found: dict[str, list[int]] = {}
    for i, label in enumerate(groups_of(items) or map(str, range(len(items)))):
        found.setdefault(label, []).append(i)
    return list(found.values())


def _drawn(items: Sequence[Any], count: int, seed: int) -> set[int]:
    """Indices of so many random items; where there are groups, of whole ones, until there are as many.

    Raises:
        InputError: No group would be left.
    """
    units, chance = _units(items), random.Random(seed)
    if len(units) == len(items):
        return set(chance.sample(range(len(items)), count))
    found: set[int] = set()
    for unit in chance.sample(units, len(units)):
        if len(found) < count:
            found.update(unit)
    if len(found) == len(items):
        raise InputError(f"Choosing on {count} items leaves none of the {len(units)} groups to judge on.", hint="use fewer")
    return found


def by_subset(
    model: Any,
    tokenizer: Any,
    task: GenerationTask,
    items: Sequence[Any],
    candidates: Candidates,
    metric: str,
    penalty: float,
    *,
    train: int | None,
    run: Mapping[str, Any],
) -> Judged:
    """Choose on a drawn subset and judge on the other items. Each candidate is a run of its own.

    Raises:
        InputError: The subset leaves nothing to judge on; see also `generate_texts`.
    """
    train = len(items) // 2 if train is None else train
    if not 1 <= train < len(items):
        raise InputError(
            f"Choosing on {train} of {len(items)} items is not possible. Allowed: 1 to {len(items) - 1}; the rest is held out.",
            hint="omit it for half of them",
        )
    chat = task.chat and has_chat(tokenizer)
    drawn = _drawn(items, train, run["seed"])
    choosing = [item for i, item in enumerate(items) if i in drawn]
    rest = [item for i, item in enumerate(items) if i not in drawn]
    ways = {name: Way(name, name, Recipe(config), penalty if config else 1.0) for name, config in candidates.items()}
    if penalty != 1.0:
        name = f"{OFF}, penalty {penalty:g}"
        ways[name] = Way(name, name, Recipe(None), penalty)

    def values(which: Sequence[Any], names: Sequence[str], file: Any) -> tuple[dict[str, list[float]], Texts]:
        assert task.measure is not None
        texts = generate_texts(
            model, tokenizer, which, [ways[name] for name in names], task.generation, chat=chat, **{**run, "results": file}
        )
        measured = {
            name: [task.measure(item, text)[metric] for item, text in zip(which, texts.by_way[name], strict=True)]
            for name in names
        }
        return measured, texts

    first, texts = values(choosing, list(ways), run["results"])
    means = {name: fmean(of) for name, of in first.items()}
    off = max((name for name in ways if candidates.get(name) is None), key=lambda name: means[name])
    best = max(means, key=lambda name: means[name])
    second, texts_behind = values(rest, list(dict.fromkeys([off, best])), run["results"] and f"{run['results']}.held-out")
    truncated = len(texts.truncated) + len(texts_behind.truncated)
    unfinished = {name: sum(cut) for name, cut in texts_behind.unfinished.items()}
    return Judged(means, [best], off, second[off], second[best], groups_of(rest), truncated, unfinished)
