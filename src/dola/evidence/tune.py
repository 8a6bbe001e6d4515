"""`dola.tune`: which layers, divergence and readout suit a model and a task, or none of them, judged on items that had no say.

Multiple-choice tasks: all candidates are scored in one pass; the best on some folds is judged on the rest, as the paper's
two-fold validation does. Tasks that generate: the best on a training subset is judged on the other items. Off is a candidate
like any other, and the answer unless the held-out gain over it is more than noise.
"""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from dola.errors import ConfigError, InputError
from dola.evidence.choice import held_out, measure, score_items
from dola.evidence.generation import generate_texts
from dola.evidence.statistics import Comparison, compare, describe
from dola.evidence.ways import Way, static_layers, static_name
from dola.files.json_text import dumps
from dola.methods.config import DoLaConfig
from dola.methods.names import DIVERGENCES
from dola.model.anatomy import Anatomy
from dola.scoring.recipe import Recipe
from dola.tasks import TASKS, ChoiceTask, GenerationTask, Task

OFF = "off"

GRID: list[dict[str, Any]] = [
    {"divergence": divergence, "final_norm": normed} for divergence in DIVERGENCES for normed in (True, False)
]
"""The settings that multiple-choice tasks try with all layers."""

Candidates = dict[str, DoLaConfig | None]
"""Settings by name, None for off."""


@dataclass(frozen=True)
class Tuning:
    """What tuning found.

    Attributes:
        task: Name of the task.
        metric: What was maximised.
        config: What to decode with; None is without DoLa.
        settings: The same as the file of `save` holds it.
        best: Name of the candidate that is best on all items that the choice is made by.
        chosen: The candidates that the held-out items were judged with: for each fold the best on the other folds; one alone
            for tasks that generate.
        baseline: What they are compared with: off, or off with the repetition penalty where that is better.
        gain: The chosen candidates against the baseline, on held-out items.
        candidates: Mean of the metric by candidate, over the items that the choice is made by.
        items: How many items there were.
        seed: Of folds, subsets and intervals.
        truncated: How many contexts were cut to fit the model's window.
    """

    task: str
    metric: str
    config: DoLaConfig | None
    settings: dict[str, Any]
    best: str
    chosen: list[str]
    baseline: str
    gain: Comparison
    candidates: dict[str, float]
    items: int
    seed: int
    truncated: int

    @property
    def sentence(self) -> str:
        """The held-out gain in words, and what follows from it."""
        chosen = " / ".join(dict.fromkeys(self.chosen))
        told = describe(self.gain, f"{self.metric}, held out", method=chosen, baseline=self.baseline)
        return f"{told} So: {OFF if self.config is None else self.best}."

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what `--config` of the command and `DoLaConfig.from_file` read."""
        Path(path).write_text(dumps(self.settings) + "\n", encoding="utf-8")

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain dicts, lists and numbers."""
        return asdict(self) | {"config": self.config and self.config.as_dict(), "sentence": self.sentence}


def tune(
    model: Any,
    tokenizer: Any,
    task: Task | str,
    items: Sequence[Any],
    *,
    metric: str | None = None,
    folds: int = 2,
    train: int | None = None,
    static: Sequence[int] = (),
    relative_top: float | None = None,
    repetition_penalty: float | None = None,
    batch_size: int = 8,
    seed: int = 0,
    results: str | os.PathLike[str] | None = None,
    facts: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Tuning:
    """Choose settings for a model and a task.

        found = dola.tune(model, tokenizer, "factor-news", TASKS["factor-news"].items("news_factor.csv"))
        found.config  # None where DoLa does not help on items that had no say in the choice

    Args:
        model: A decoder-only Hugging Face model, without DoLa on it.
        tokenizer: Its tokenizer.
        task: A task that needs no judge, or its name.
        items: Its items.
        metric: What is maximised; the task's first metric, unless given.
        folds: Of multiple-choice tasks.
        train: Of tasks that generate: how many items the choice is made by; half of them, unless given.
        static: Layers that are tried alone in tasks that generate, where each candidate is a run of its own. Multiple-choice
            tasks try the candidates of both buckets, without being asked.
        relative_top: The plausibility threshold of all candidates. By default scoring takes the paper's for the task, and
            `Tuning.config` DoLaConfig's: a threshold of 0, as for TruthfulQA's given answers, is none to decode with.
        repetition_penalty: Where text is generated; by default that of the paper's run. Off is tried with it and without.
        batch_size: Prompts at a time, where text is generated.
        seed: Of folds, subsets and intervals.
        results: A file that keeps what has been found. Where it exists, the run goes on from it.
        facts: What else `results` must be of, by name.
        progress: Whether to show a progress bar on stderr.

    Raises:
        InputError: Too few items for the folds or the subset, or a task that only judges can measure.
        ConfigError: A metric that the task does not have.
        LayersError: Layers that this model does not have.
    """
    task = TASKS[task] if isinstance(task, str) else task
    if not task.measured_alone:
        raise InputError(f"{task.name} has no metric to choose by without a judge.", hint="tune on truthfulqa-mc or gsm8k")
    if len(items) < 2:
        raise InputError(
            f"{len(items)} of the 2 items that are needed: one to choose by, and one to judge the choice.",
            hint="use at least 2, and hundreds for a difference to show",
        )
    names = [each.name for each in task.metrics]
    metric = names[0] if metric is None else metric
    if metric not in names:
        raise ConfigError(f"{metric!r} is no metric of {task.name}; there are {', '.join(names)}.", hint=f"use {names[0]}")
    asked = {} if relative_top is None else {"relative_top": relative_top}
    fixed = {**task.paper.settings, **asked}
    with_dola = task.paper.repetition_penalty if repetition_penalty is None else repetition_penalty
    run: dict[str, Any] = {"results": results, "facts": facts, "progress": progress}
    if isinstance(task, ChoiceTask):
        candidates = choice_candidates(model, **fixed)
        judged = _by_folds(model, tokenizer, task, items, candidates, metric, folds=folds, seed=seed, run=run)
    else:
        candidates = generation_candidates(static, **fixed)
        run |= {"batch_size": batch_size, "seed": seed}
        judged = _by_subset(model, tokenizer, task, items, candidates, metric, with_dola, train=train, run=run)
    binary = next(each.binary for each in task.metrics if each.name == metric)
    gain = compare(judged.off, judged.chosen_values, binary=binary, seed=seed)
    best = max(judged.means, key=lambda name: judged.means[name])
    config = candidates.get(best) if gain.significant and gain.difference > 0 else None
    penalty = None
    if isinstance(task, GenerationTask):
        penalty = with_dola if config is not None or judged.baseline != OFF else 1.0
    return Tuning(
        task=task.name,
        metric=metric,
        config=None if config is None else _to_decode_with(config, asked),
        settings=_settings(config, asked, penalty),
        best=best,
        chosen=judged.chosen,
        baseline=judged.baseline,
        gain=gain,
        candidates=judged.means,
        items=len(items),
        seed=seed,
        truncated=judged.truncated,
    )


def choice_candidates(model: Any, **fixed: Any) -> Candidates:
    """Off; low, high, and each layer of both by itself; each with the settings of GRID, where these differ.

    Args:
        model: The model.
        **fixed: Settings of all candidates.
    """
    anatomy = Anatomy.of(model)
    found: Candidates = {OFF: None}
    static = [[layer] for layer in static_layers(anatomy.num_layers, tied=anatomy.tied)]
    tried: list[str | Sequence[int]] = ["low", "high", *static]
    for layers in tried:
        for settings in GRID:
            config = DoLaConfig(layers, **fixed, **settings)
            # One layer is chosen by any divergence; with the reference's, the bare head skips a logit transform as well.
            another = config.divergence == "jsd" or (config.raw_head and anatomy.logit_transform is not None)
            if isinstance(layers, str) or another:
                found[_name(config)] = config
    return found


def generation_candidates(static: Sequence[int], **fixed: Any) -> Candidates:
    """Off, low, high, and these layers by themselves; `fixed` as of `choice_candidates`."""
    tried: list[str | Sequence[int]] = ["low", "high", *([layer] for layer in static)]
    configs = [DoLaConfig(layers, **fixed) for layers in tried]
    return {OFF: None, **{_name(config): config for config in configs}}


@dataclass(frozen=True)
class _Judged:
    """Means by candidate over the items of the choice; on held-out items, values of off and of what was chosen."""

    means: dict[str, float]
    chosen: list[str]
    baseline: str
    off: list[float]
    chosen_values: list[float]
    truncated: int


def _by_folds(
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
) -> _Judged:
    if not 2 <= folds <= len(items):
        raise InputError(
            f"{len(items)} items cannot be split into {folds} folds; allowed are 2 to {len(items)}.",
            hint="use 2, as the paper does",
        )
    recipes = {name: Recipe(config) for name, config in candidates.items()}
    scores = score_items(model, tokenizer, items, recipes, **run)
    values = {name: measure(task, items, scores, name) for name in candidates}
    judged, chosen = held_out(values, [metric], len(items), seed=seed, k=folds)
    return _Judged(
        means={name: fmean(of[metric]) for name, of in values.items()},
        chosen=chosen[metric],
        baseline=OFF,
        off=values[OFF][metric],
        chosen_values=judged[metric],
        truncated=len(scores.truncated),
    )


def _by_subset(
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
) -> _Judged:
    train = len(items) // 2 if train is None else train
    if not 1 <= train < len(items):
        raise InputError(
            f"{train} of {len(items)} items to choose by; allowed are 1 to {len(items) - 1}, the rest is held out.",
            hint="leave it out for half of them",
        )
    drawn = set(random.Random(run["seed"]).sample(range(len(items)), train))
    choosing = [item for i, item in enumerate(items) if i in drawn]
    rest = [item for i, item in enumerate(items) if i not in drawn]
    ways = {name: Way(name, name, Recipe(config), penalty if config else 1.0) for name, config in candidates.items()}
    if penalty != 1.0:
        name = f"{OFF}, penalty {penalty:g}"
        ways[name] = Way(name, name, Recipe(None), penalty)

    def values(which: Sequence[Any], names: Sequence[str], file: Any) -> tuple[dict[str, list[float]], int]:
        assert task.measure is not None
        texts = generate_texts(
            model, tokenizer, which, [ways[name] for name in names], task.generation, **{**run, "results": file}
        )
        measured = {
            name: [task.measure(item, text)[metric] for item, text in zip(which, texts.by_way[name], strict=True)]
            for name in names
        }
        return measured, len(texts.truncated)

    first, cut = values(choosing, list(ways), run["results"])
    means = {name: fmean(of) for name, of in first.items()}
    off = max((name for name in ways if candidates.get(name) is None), key=lambda name: means[name])
    best = max(means, key=lambda name: means[name])
    second, cut_behind = values(rest, list(dict.fromkeys([off, best])), run["results"] and f"{run['results']}.held-out")
    return _Judged(means, [best], off, second[off], second[best], cut + cut_behind)


def _name(config: DoLaConfig) -> str:
    """Its layers, and the settings that are not the usual ones. Those that all candidates share are left out."""
    layers = config.layers if isinstance(config.layers, str) else static_name(config.layers[0])
    others = [each for each in DoLaConfig.options() if not each.facts.by_task]
    given = [(each, getattr(config, each.name)) for each in others]
    return ", ".join([layers, *(each.words(value) for each, value in given if value != each.default)])


def _to_decode_with(config: DoLaConfig, asked: Mapping[str, Any]) -> DoLaConfig:
    """What was chosen, with the usual values of settings that only the scoring took from the task."""
    usual = {each.name: each.default for each in DoLaConfig.options() if each.facts.by_task}
    return replace(config, **{**usual, **asked})


def _settings(config: DoLaConfig | None, asked: Mapping[str, Any], penalty: float | None) -> dict[str, Any]:
    """As the command's options are called; with the penalty that the texts were judged with, if there were any."""
    judged = {} if penalty is None else {"repetition-penalty": penalty}
    if config is None:
        return {"layers": OFF, **judged}
    names = [each.name for each in DoLaConfig.options() if not each.facts.by_task or each.name in asked]
    found = {name.replace("_", "-"): getattr(config, name) for name in ("layers", *names)}
    return {name: value for name, value in found.items() if value is not None} | judged
