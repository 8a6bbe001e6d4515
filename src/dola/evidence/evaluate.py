"""Evaluates a model on a task, with all ways and controls, into one report."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm.auto import tqdm

from dola.decoding.attach import as_config
from dola.evidence.choice import measure_ways, score_items, static_recipes
from dola.evidence.chosen import chosen_answers
from dola.evidence.generation import Texts, generate_texts
from dola.evidence.report import Report, make_report
from dola.evidence.rows import chosen_rows, decoded_rows
from dola.evidence.sample import Sample
from dola.evidence.verdict import SMALLEST
from dola.evidence.ways import LENGTH, LENGTH_NATS, STATIC, Role, Way, choice_ways, generation_ways
from dola.methods.config import DoLaConfig, MethodConfig
from dola.model.anatomy import Anatomy
from dola.model.hidden import window
from dola.scoring.results_file import ResultsFile
from dola.scoring.score import Scores
from dola.tasks import ChoiceTask, GenerationTask
from dola.tasks.judge import Judge
from dola.tasks.vicuna import write_answers
from dola.text.chat import has_chat


@dataclass(frozen=True)
class Judges:
    """The judges of open-ended answers.

    Attributes:
        truth: Judges whether answers are true.
        info: Judges whether answers are informative.
        names: Names of the two, for the report.
    """

    truth: Judge
    info: Judge
    names: tuple[str, str]


def evaluate(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    *,
    name: str,
    dola: MethodConfig | None = None,
    repetition_penalty: float | None = None,
    batch_size: int = 8,
    judges: Judges | None = None,
    answers: Path | None = None,
    results: str | Path | None = None,
    ways: str | Path = "standard",
    smallest: float = SMALLEST,
    progress: bool = True,
) -> Report:
    """Evaluate vanilla, DoLa and the controls on the same items.

    Args:
        model: A decoder-only Hugging Face model, without DoLa on it.
        tokenizer: Its tokenizer.
        sample: The items.
        name: Name of the model, for the report.
        dola: Settings of the DoLa rows. Layers other than "low" and "high", which every report has, get their own row. The
            default is DoLaConfig's, with the threshold of the paper's run of this task and the default layers of `attach`.
        repetition_penalty: Repetition penalty of DoLa and of a control, for generated text; by default that of the paper's run
            of this task.
        batch_size: Prompts at a time, for generated text.
        judges: The judges, for tasks that need them.
        answers: The folder for answers that another program judges, for tasks that have them.
        results: A file that stores results. If it exists, the run resumes from it.
        ways: "standard"; "methods", each method with its defaults; "full", both and DoLa's other settings; or a JSON file
            that lists rows (`rows.read_rows`).
        smallest: The difference in the first metric that matters, for verdicts: 0.02 is 2 points.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: See `dola.score` and `generate_texts`.
        UsageError: The task needs judges or a folder for answers that were not given.
        JudgeError: A judge does not reply.
        LayersError: This model does not have the layers.
    """
    task = sample.task
    if dola is None:
        dola = DoLaConfig(as_config(None, Anatomy.of(model)).layers, **task.paper.settings)
    task.check_means(judges, answers)
    more, standard = chosen_rows(ways, dola, task.paper.settings, sample.seed)
    if isinstance(task, ChoiceTask):
        listed = choice_ways(task, dola, seed=sample.seed, more=more, standard=standard)
        run: dict[str, Any] = {"name": name, "results": results, "smallest": smallest, "progress": progress}
        return _choice(model, tokenizer, sample, task, dola, listed, **run)
    penalty = task.paper.repetition_penalty if repetition_penalty is None else repetition_penalty
    listed = generation_ways(dola, penalty, more=decoded_rows(more, ways), standard=standard)
    texts = generate_texts(
        model,
        tokenizer,
        sample.items,
        listed,
        task.generation,
        chat=task.chat and has_chat(tokenizer),
        batch_size=batch_size,
        seed=sample.seed,
        results=results,
        facts=sample.facts,
        progress=progress,
    )
    judges = judges if task.judged else None
    settings = {
        "dola": dola.as_dict(),
        "repetition_penalty": penalty,
        "batch_size": batch_size,
        **asdict(task.generation),
        "judges": judges and list(judges.names),
    }
    report = make_report(
        sample,
        model,
        name,
        listed,
        _values(sample, task, texts, judges, results=results, progress=progress),
        settings=settings,
        notes=_cut(sample, texts.truncated, f"{window(model)} tokens with {task.generation.max_new_tokens} for the answer"),
        texts=texts.by_way,
        smallest=smallest,
    )
    if task.measure is None and answers is not None:
        return replace(report, files=_write_answers(answers, sample, texts, name))
    return report


def _choice(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    task: ChoiceTask,
    own: MethodConfig,
    ways: Sequence[Way],
    *,
    name: str,
    results: str | Path | None,
    smallest: float,
    progress: bool,
) -> Report:
    by_layer = any(way.role is Role.STATIC for way in ways)
    static = static_recipes(model, own) if by_layer and isinstance(own, DoLaConfig) else {}
    recipes = {way.name: way.recipe for way in ways if way.recipe is not None} | static
    scores = score_items(model, tokenizer, sample.items, recipes, results=results, facts=sample.facts, progress=progress)
    values, chosen = measure_ways(task, sample.items, scores, ways, static=static, seed=sample.seed)
    folded = chosen.get(task.metrics[0].name, [])
    answers = chosen_answers(task, sample.items, scores, ways, values, static=static, folded=folded, seed=sample.seed)
    layers = {way.name: scores.layer_shares(way.name) for way in ways if way.name in scores.values}
    notes = [
        *_cut(sample, scores.truncated, f"{window(model)} tokens with the continuations"),
        *_ties(scores, [way.name for way in ways if way.name in scores.values]),
        *(f"{STATIC}: for {metric}, {' and '.join(names)} were chosen." for metric, names in chosen.items() if names),
    ]
    if "mc2" in values[LENGTH]:
        notes.append(f"{LENGTH} gives each token {LENGTH_NATS:g} nats; mc2 of such a scorer depends on that number.")
    return make_report(
        sample,
        model,
        name,
        ways,
        values,
        settings={"dola": own.as_dict()},
        layers=layers,
        implausible={name: _implausible(scores, name) for name in layers},
        notes=notes,
        chosen=answers,
        smallest=smallest,
    )


def _implausible(scores: Scores, name: str) -> float:
    return fmean(count for item in scores.implausible[name] for count in item)


def _ties(scores: Scores, ways: Sequence[str]) -> list[str]:
    """Ways under which answers tie for the best score, usually all at the floor. FACTOR counts them as right."""
    found = []
    for name in ways:
        tied = sum(sorted(values)[-2:].count(max(values)) > 1 for values in scores.values[name])
        if tied:
            found.append(f"{name}: in {tied} of {len(scores.tokens)} items answers tie for the best score.")
    return found


def _cut(sample: Sample, truncated: Sequence[int], room: str) -> list[str]:
    """A note on contexts that were cut, if any."""
    if not truncated:
        return []
    names = ", ".join(sample.items[item].id for item in truncated[:10]) + (", ..." if len(truncated) > 10 else "")
    return [f"{len(truncated)} of {len(sample.items)} contexts were cut on the left: they exceed {room} (items {names})."]


def _values(
    sample: Sample,
    task: GenerationTask,
    texts: Texts,
    judges: Judges | None,
    *,
    results: str | Path | None,
    progress: bool,
) -> dict[str, dict[str, list[float]]]:
    """The metrics of generated texts: way -> metric -> value of each item."""
    if task.measure is None:
        return {name: {} for name in texts.by_way}
    judged = str(results) + ".judged" if results is not None and judges is not None else None
    jobs = [(name, i) for name in texts.by_way for i in range(len(sample.items))]

    def run() -> dict[str, str]:
        return {**sample.facts, "texts": _digest(texts.by_way), "judges": repr(judges and judges.names)}

    def is_result(number: int, found: Any) -> bool:
        return (
            0 <= number < len(jobs)
            and isinstance(found, dict)
            and all(isinstance(found.get(name), (int, float)) for name in names)
        )

    names = [metric.name for metric in task.metrics]
    with ResultsFile.open(judged, run, is_result) as kept:
        for number, (name, i) in enumerate(
            tqdm(jobs, unit="answer", disable=None if progress and judges is not None else True)
        ):
            if number not in kept.items:
                by = () if judges is None else (judges.truth, judges.info)
                kept.add(number, task.measure(sample.items[i], texts.by_way[name][i], *by))
        measured = {job: kept.items[number] for number, job in enumerate(jobs)}
    return {
        name: {metric: [measured[name, i][metric] for i in range(len(sample.items))] for metric in names}
        for name in texts.by_way
    }


def _digest(texts: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of texts by way."""
    return hashlib.sha256(repr({name: list(of_way) for name, of_way in texts.items()}).encode()).hexdigest()


def _write_answers(folder: Path, sample: Sample, texts: Texts, name: str) -> list[str]:
    """Write one file for each way, named as FastChat's judge names the model. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for way, answers in texts.by_way.items():
        model_id = _slug(f"{Path(name).name}-{way}")
        path = folder / f"{model_id}.jsonl"
        write_answers(path, zip(sample.items, answers, strict=True), model_id)
        files.append(str(path))
    return files


def _slug(text: str) -> str:
    return re.sub(r"[^\w.]+", "-", text.lower()).strip("-")
