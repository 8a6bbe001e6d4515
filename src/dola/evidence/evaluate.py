"""Evaluates a model on a task, with all ways and controls, into one report."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from dola.decoding.attach import as_config
from dola.evidence.course import Block, Course, Table, Tell, planned
from dola.evidence.finding import SMALLEST
from dola.evidence.forecast import Forecast
from dola.evidence.generation import Texts, generate_texts
from dola.evidence.item_traces import check_traceable, with_traces
from dola.evidence.judging import Judges, Tally, measured
from dola.evidence.report import Report, make_report
from dola.evidence.rows import SETS, chosen_rows, decoded_rows
from dola.evidence.sample import Sample
from dola.evidence.scored import ScoredRun
from dola.evidence.ways import Way, choice_ways, generation_ways
from dola.methods.config import DoLaConfig, MethodConfig
from dola.model.anatomy import Anatomy
from dola.model.hidden import window
from dola.tasks import ChoiceTask, GenerationTask, Task
from dola.tasks.vicuna import write_answers
from dola.text.chat import has_chat


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
    ways: str | Path | Sequence[Way] = "standard",
    smallest: float = SMALLEST,
    sequential: bool = False,
    trace_items: int = 0,
    tell: Tell | None = None,
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
        ways: "standard"; "methods", each method with its defaults; "full", both and DoLa's other settings; a JSON file that
            lists rows (`rows.read_rows`); or rows.
        smallest: The difference in the first metric that matters, for verdicts: 0.02 is 2 points.
        sequential: Whether to look at the results after 25, 50 and 75% of the items, in an order drawn with the sample's
            seed, and to stop rows that are decided.
        trace_items: Number of items to trace, those whose answers one row changed most (`Report.traces`).
        tell: Prints lines for people who watch the run: how long it will take, and what each look decided.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: See `dola.score` and `generate_texts`.
        UsageError: The task needs judges or a folder for answers that were not given; a sequential run decides nothing; or the
            task's answers cannot be traced.
        JudgeError: A judge does not reply.
        LayersError: This model does not have the layers.
    """
    task = sample.task
    if dola is None:
        dola = DoLaConfig(as_config(None, Anatomy.of(model)).layers, **task.paper.settings)
    task.check_means(judges, answers)
    if trace_items:
        check_traceable(task)
    penalty = task.paper.repetition_penalty if repetition_penalty is None else repetition_penalty
    rows = partial(_rows, task, dola, penalty, sample.seed)
    listed = rows(ways)
    sample, course = planned(sample, listed, smallest=smallest, sequential=sequential, tell=tell)
    forecast = None if tell is None else Forecast(lambda: {each: rows(each) for each in SETS}, tell, most=sequential)
    if isinstance(task, ChoiceTask):
        run = ScoredRun(model, tokenizer, task, dola, results=results, progress=progress, forecast=forecast)
        found = _choice(sample, course, run, dola, model, name)
        return with_traces(found, model, tokenizer, sample, listed, trace_items, progress=progress)
    written = _Written(model, tokenizer, task, judges if task.judged else None, batch_size, results, progress, forecast)
    values, done = course.follow(sample, written.run)
    sample = replace(sample, items=sample.items[:done])
    settings = {
        "dola": dola.as_dict(),
        "repetition_penalty": penalty,
        "batch_size": batch_size,
        **asdict(task.generation),
        "judges": list(judges.names) if judges is not None and task.judged else None,
    }
    room = f"{window(model)} tokens with {task.generation.max_new_tokens} for the answer"
    report = make_report(
        sample,
        model,
        name,
        listed,
        values,
        settings=settings,
        notes=[*_cut(sample, written.texts.truncated, room), *written.notes],
        texts=written.texts,
        smallest=smallest,
        looks=course.looks,
    )
    if task.measure is None and answers is not None:
        return replace(report, files=_write_answers(answers, sample, written.texts, name))
    return with_traces(report, model, tokenizer, sample, listed, trace_items, progress=progress)


def _rows(task: Task, own: MethodConfig, penalty: float, seed: int, ways: str | Path | Sequence[Way]) -> list[Way]:
    """All rows of a report on a task, by the name of a set or by what was chosen."""
    more, standard = chosen_rows(ways, own, task.paper.settings, seed)
    if isinstance(task, ChoiceTask):
        return choice_ways(task, own, seed=seed, more=more, standard=standard)
    return generation_ways(own, penalty, more=decoded_rows(more, ways), standard=standard)


@dataclass
class _Written:
    """The run of a task with generated text, block by block: the live ways write, and their texts are measured."""

    model: Any
    tokenizer: Any
    task: GenerationTask
    judges: Judges | None
    batch_size: int
    results: str | Path | None
    progress: bool
    forecast: Forecast | None = None
    texts: Texts = field(default_factory=lambda: Texts({}, [], {}))
    values: Table = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    @property
    def notes(self) -> list[str]:
        """What readers of the report must know of the judge."""
        return [] if self.judges is None else self.tally.sentences(self.judges.names[0])

    def run(self, block: Block, live: list[Way]) -> Table:
        """Write and measure the answers to a block. Returns the values of all items so far."""
        results = block.results(self.results)
        found = generate_texts(
            self.model,
            self.tokenizer,
            block.items,
            live,
            self.task.generation,
            chat=self.task.chat and has_chat(self.tokenizer),
            batch_size=self.batch_size,
            seed=block.seed(len(live)),
            results=results,
            facts=block.facts,
            progress=self.progress,
            forecast=None if block.number else self.forecast,
            parts=len(block.sample.items) / len(block.items),
        )
        self.texts.truncated.extend(block.start + item for item in found.truncated)
        run: dict[str, Any] = {"results": results, "progress": self.progress, "tally": self.tally}
        by_way = measured(block, self.task, found, self.judges, **run)
        for way in live:
            self.texts.by_way.setdefault(way.name, []).extend(found.by_way[way.name])
            self.texts.unfinished.setdefault(way.name, []).extend(found.unfinished[way.name])
            for metric, values in by_way[way.name].items():
                self.values.setdefault(way.name, {}).setdefault(metric, []).extend(values)
            self.values.setdefault(way.name, {})
        return self.values


def _choice(sample: Sample, course: Course, run: ScoredRun, own: MethodConfig, model: Any, name: str) -> Report:
    """The report of a multiple-choice task."""
    values, done = course.follow(sample, run.run)
    assert run.scores is not None
    sample, ways = replace(sample, items=sample.items[:done]), course.ways
    layers = run.layers(ways)
    return make_report(
        sample,
        model,
        name,
        ways,
        values,
        settings={"dola": own.as_dict()},
        layers=layers,
        implausible=run.implausible(layers),
        notes=[*_cut(sample, run.scores.truncated, f"{window(model)} tokens with the continuations"), *run.notes(ways)],
        chosen=run.answers(sample, ways, values),
        smallest=course.smallest,
        looks=course.looks,
    )


def _cut(sample: Sample, truncated: Sequence[int], room: str) -> list[str]:
    """A note on contexts that were cut, if any."""
    if not truncated:
        return []
    names = ", ".join(sample.items[item].id for item in truncated[:10]) + (", ..." if len(truncated) > 10 else "")
    return [f"{len(truncated)} of {len(sample.items)} contexts were cut on the left: they exceed {room} (items {names})."]


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
