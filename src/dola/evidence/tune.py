"""`dola.tune`: finds the settings that suit a model and a task, judged on held-out items, or recommends none.

Multiple-choice tasks: all candidates are scored in one pass, and the best on some folds is judged on the rest, as in the
paper's two-fold validation. Tasks that generate: the best on a training subset is judged on the other items. Off is a candidate
like any other, and the result unless the one test at the end, of the choice against off, says that the choice is better.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dola.errors import ConfigError, InputError
from dola.evidence.candidates import (
    OFF,
    Space,
    choice_candidates,
    generation_candidates,
    settings_for_file,
    to_decode_with,
)
from dola.evidence.chosen import by_folds, by_subset
from dola.evidence.finding import SMALLEST, Finding, Verdict
from dola.evidence.statistics import Comparison, compare, describe
from dola.evidence.verdict import judge
from dola.files.json_text import dumps
from dola.files.whole_file import write_whole
from dola.methods.config import MethodConfig
from dola.tasks import TASKS, ChoiceTask, GenerationTask, Task


@dataclass(frozen=True)
class Tuning:
    """The result of tuning.

    Attributes:
        task: Name of the task.
        metric: The maximized metric.
        config: The recommended configuration, of any method; None means plain decoding.
        settings: The same in the form of the file that `save` writes.
        best: Name of the best candidate on all items used for choosing.
        chosen: The candidates that were judged on the held-out items: for each fold the best on the other folds; only one for
            tasks that generate.
        baseline: What they are compared with: off, or off with the repetition penalty if that is better.
        gain: The chosen candidates compared with the baseline, on held-out items.
        finding: The verdict on the same. It is the only test; the choice is recommended if it says "better".
        candidates: Mean of the metric by candidate, over the items used for choosing.
        items: Number of items.
        seed: Seed of folds, subsets and intervals.
        truncated: Number of contexts that were cut to fit the model's window.
        unfinished: Number of answers to held-out items that the length limit cut, by row; empty for multiple choice.
    """

    task: str
    metric: str
    config: MethodConfig | None
    settings: dict[str, Any]
    best: str
    chosen: list[str]
    baseline: str
    gain: Comparison
    finding: Finding
    candidates: dict[str, float]
    items: int
    seed: int
    truncated: int
    unfinished: dict[str, int] = field(default_factory=dict)

    @property
    def sentence(self) -> str:
        """The held-out gain, the verdict on it, and the recommendation."""
        if not self.tested:
            return f"Nothing was better than off where it was chosen. So: {self.baseline}."
        chosen = " / ".join(dict.fromkeys(self.chosen))
        gain = describe(self.gain, f"{self.metric}, held out", method=chosen, baseline=self.baseline)
        return f"{gain} {self.finding.sentence('Verdict')} So: {self.baseline if self.config is None else self.best}."

    @property
    def tested(self) -> bool:
        """Whether anything other than off was chosen, and judged on held-out items."""
        return not all(name.startswith(OFF) for name in self.chosen)

    @property
    def notes(self) -> list[str]:
        """What readers of the result must know."""
        found = []
        if self.truncated:
            found.append(f"{self.truncated} contexts were cut on the left to fit the model's window.")
        if any(self.unfinished.values()):
            listed = ", ".join(f"{count} of {name}" for name, count in self.unfinished.items())
            found.append(
                f"The length limit cut answers to held-out items: {listed}. What would have followed does not count, so longer "
                "answers may look worse than they are."
            )
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a settings file for the command's `--config`, and for `dola.methods.registry.read_config`."""
        write_whole(Path(path), dumps(self.settings) + "\n")

    def to_json(self) -> dict[str, Any]:
        """All fields as plain dicts, lists and numbers."""
        finding = asdict(self.finding) | {"verdict": self.finding.verdict.value}
        return asdict(self) | {
            "config": self.config and self.config.as_dict(),
            "finding": finding,
            "sentence": self.sentence,
        }


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
    methods: Sequence[str] = ("dola",),
    strengths: Sequence[float] | None = None,
    thresholds: Sequence[float] = (),
    lens: str | os.PathLike[str] | None = None,
    relative_top: float | None = None,
    repetition_penalty: float | None = None,
    smallest: float = SMALLEST,
    batch_size: int = 8,
    seed: int = 0,
    results: str | os.PathLike[str] | None = None,
    facts: Mapping[str, str] | None = None,
    progress: bool = True,
) -> Tuning:
    """Choose settings for a model and a task.

        found = dola.tune(model, tokenizer, "factor-news", TASKS["factor-news"].items("news_factor.csv"))
        found.config  # None if DoLa does not help on held-out items

    Args:
        model: A decoder-only Hugging Face model, without DoLa on it.
        tokenizer: Its tokenizer.
        task: A task that needs no judge, or its name.
        items: Its items.
        metric: The metric to maximize; by default the task's first one.
        folds: Number of folds, for multiple-choice tasks.
        train: Number of items to choose on, for tasks that generate; by default half of them.
        static: Single layers to try in tasks that generate, where each candidate is a separate run. Multiple-choice tasks
            always try the candidates of both buckets.
        methods: The methods to try. Methods other than DoLa are tried with their defaults and their authors' presets.
        strengths: DoLa's strengths to try beside 1. By default 0.25 and 0.5 for multiple choice, and none for tasks that
            generate.
        thresholds: Plausibility thresholds to try, in place of `relative_top`.
        lens: A lens to try: with it and without it.
        relative_top: The plausibility threshold of all candidates. By default scoring uses the paper's for the task, and
            `Tuning.config` DoLaConfig's: a threshold of 0, as for TruthfulQA's given answers, does not suit decoding.
        repetition_penalty: Repetition penalty of generated text; by default that of the paper's run. Off is tried with and
            without it.
        smallest: The difference that matters, for the verdict: 0.02 is 2 points.
        batch_size: Prompts at a time, for generated text.
        seed: Seed of folds, subsets and intervals.
        results: A file that stores results. If it exists, the run resumes from it.
        facts: Further properties that `results` must match, by name.
        progress: Whether to show a progress bar on stderr.

    Raises:
        InputError: There are too few items for the folds or the subset, or only judges can measure the task.
        ConfigError: The task does not have the metric.
        LayersError: This model does not have the layers.

    Examples:
        >>> from dola.tasks.items import ChoiceItem
        >>> model, tokenizer = dola.load()
        >>> endings, right = (" Olympia", " Seattle", " Boise", " Salem"), (True, False, False, False)
        >>> items = [ChoiceItem(str(i), "The capital of Washington is", endings, right, best=0) for i in range(4)]
        >>> found = dola.tune(model, tokenizer, "factor-news", items, progress=False)
        >>> found.config is None  # four items show nothing, so the answer is off
        True
    """
    task = TASKS[task] if isinstance(task, str) else task
    if not task.measured_alone:
        raise InputError(f"{task.name} has no metric to choose by without a judge.", hint="tune on truthfulqa-mc or gsm8k")
    if len(items) < 2:
        raise InputError(
            f"There are too few items ({len(items)}); at least 2 are required, one to choose on and one to judge the choice.",
            hint="use at least 2, and hundreds to detect a difference",
        )
    names = [each.name for each in task.metrics]
    metric = names[0] if metric is None else metric
    if metric not in names:
        raise ConfigError(f"{metric!r} is not a metric of {task.name}. Metrics: {', '.join(names)}.", hint=f"use {names[0]}")
    if thresholds and relative_top is not None:
        raise ConfigError("relative_top and thresholds were both given.", hint="give one of them")
    space = Space(tuple(methods), strengths, tuple(thresholds), None if lens is None else os.fspath(lens))
    fixed = {**task.paper.settings, **({} if relative_top is None else {"relative_top": relative_top})}
    asked = () if relative_top is None and not thresholds else ("relative_top",)
    with_dola = task.paper.repetition_penalty if repetition_penalty is None else repetition_penalty
    run: dict[str, Any] = {"results": results, "facts": facts, "progress": progress}
    if isinstance(task, ChoiceTask):
        candidates = choice_candidates(model, space, **fixed)
        judged = by_folds(model, tokenizer, task, items, candidates, metric, folds=folds, seed=seed, run=run)
    else:
        candidates = generation_candidates(static, space, **fixed)
        run |= {"batch_size": batch_size, "seed": seed}
        judged = by_subset(model, tokenizer, task, items, candidates, metric, with_dola, train=train, run=run)
    binary = next(each.binary for each in task.metrics if each.name == metric)
    gain = compare(judged.off, judged.chosen_values, binary=binary, seed=seed)
    finding = judge(judged.off, {OFF: judged.chosen_values}, smallest=smallest, groups=judged.groups, seed=seed)[OFF]
    best = max(judged.means, key=lambda name: judged.means[name])
    config = candidates.get(best) if finding.verdict is Verdict.BETTER else None
    penalty = None
    if isinstance(task, GenerationTask):
        penalty = with_dola if config is not None or judged.baseline != OFF else 1.0
    return Tuning(
        task=task.name,
        metric=metric,
        config=None if config is None else to_decode_with(config, asked),
        settings=settings_for_file(config, asked, penalty),
        best=best,
        chosen=judged.chosen,
        baseline=judged.baseline,
        gain=gain,
        finding=finding,
        candidates=judged.means,
        items=len(items),
        seed=seed,
        truncated=judged.truncated,
        unfinished=judged.unfinished,
    )
