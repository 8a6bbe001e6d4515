"""`dola eval lm-eval:TASK`: any task of lm-evaluation-harness, all rows on one loaded model, with verdicts.

The harness asks the questions and computes the metrics. Likelihoods of all rows come from one pass (`SharedScores`). The values
of each item are compared across the rows, with the same statistics as for dola's own tasks. Metrics that are not a mean over
items are listed without a verdict.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.api.metrics import mean
from lm_eval.tasks import TaskManager

from dola.errors import InputError, UsageError
from dola.evidence.finding import SMALLEST
from dola.evidence.generation import Texts
from dola.evidence.report import Report, make_report
from dola.evidence.rows import chosen_rows
from dola.evidence.sample import Sample, draw
from dola.evidence.ways import Way, generation_ways, harness_choice_ways
from dola.integrations.lm_eval import DolaLM
from dola.integrations.lm_eval_items import chooses, chosen_of, item_of, texts_of
from dola.integrations.shared_scores import SharedScores
from dola.methods.config import MethodConfig
from dola.methods.names import RECOMMENDED_PENALTY
from dola.scoring.recipe import Recipe
from dola.tasks import ChoiceTask, Metric
from dola.tasks.task import NO_PAPER

PREFIX = "lm-eval:"
Values = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class _Row:
    """What the harness found for one row.

    Attributes:
        values: The value of each item by metric and filter.
        results: The harness's own result for each metric.
        samples: What it logs of each item, in the order of the drawn ones.
    """

    values: dict[str, list[float]]
    results: Mapping[str, Any]
    samples: list[Mapping[str, Any]]


def evaluate_harness(
    model: Any,
    tokenizer: Any,
    task: str,
    *,
    name: str,
    own: MethodConfig,
    ways: str | Sequence[Way] = "standard",
    limit: int | None = None,
    seed: int = 0,
    include_path: Path | None = None,
    repetition_penalty: float = RECOMMENDED_PENALTY,
    batch_size: int = 8,
    smallest: float = SMALLEST,
) -> Report:
    """Evaluate vanilla, DoLa and controls on a task of lm-evaluation-harness.

    Args:
        model: A Hugging Face model, without DoLa attached.
        tokenizer: The model's tokenizer.
        task: Name of the task in the harness.
        name: Name of the model, for the report.
        own: Settings of DoLa's rows.
        ways: See `evaluate`.
        limit: Number of items to draw; all by default.
        seed: Seed of the draw, of the harness, and of the report.
        include_path: A folder with tasks as YAML files.
        repetition_penalty: Repetition penalty of DoLa and its control, in tasks that generate.
        batch_size: Prompts at a time.
        smallest: The difference in the first metric that matters.

    Raises:
        UsageError: The harness does not have the task, or it is a group of tasks.
        InputError: The task has no metric that is a mean over items.
    """
    manager = TaskManager(include_path=None if include_path is None else str(include_path))
    loaded = _load(manager, task)
    total = len(loaded.eval_docs)
    drawn = list(range(total)) if limit is None or limit >= total else draw(range(total), limit, seed)
    generates = loaded.OUTPUT_TYPE == "generate_until"
    more, standard = chosen_rows(ways, own, {}, seed)
    if generates:
        listed = generation_ways(own, repetition_penalty, more=more, standard=standard)
    else:
        listed = harness_choice_ways(own, seed=seed, more=more, standard=standard)
    shared = SharedScores([way.recipe or Recipe(None) for way in listed])
    found = {way.name: _run(model, tokenizer, way, shared, task, drawn, manager, batch_size, seed) for way in listed}
    metrics = _mean_metrics(loaded, found)
    values: Values = {row: {metric.name: of.values[metric.name] for metric in metrics} for row, of in found.items()}
    plain = next(iter(found.values())).samples
    items = [item_of(loaded, each, str(i)) for i, each in zip(drawn, plain, strict=True)]
    sample = Sample(_as_task(task, metrics), items, [], total, seed)
    first = metrics[0].name
    settings = {"dola": own.as_dict(), **({"repetition_penalty": repetition_penalty} if generates else {})}
    return make_report(
        sample, model, name, listed, values, settings=settings, notes=_others(loaded, metrics, found), smallest=smallest,
        texts=Texts({row: texts_of(of.samples) for row, of in found.items()}, [], {}) if generates else None,
        chosen={row: chosen_of(loaded, of.samples, first) for row, of in found.items()} if chooses(loaded) else None,
        higher_is_better=bool(loaded.higher_is_better().get(first.partition(",")[0], True)),
    )  # fmt: skip


def _load(manager: TaskManager, name: str) -> Any:
    if name not in manager.all_tasks:
        near = [each for each in manager.all_tasks if name.split("_")[0] in each][:5]
        listing = "dola lm-eval ls tasks lists them; --include-path FOLDER adds yours"
        hint = f"did you mean {', '.join(near)}?" if near else listing
        raise UsageError(f"lm-evaluation-harness has no task {name!r}.", hint=hint)
    if name in manager.all_groups:
        raise UsageError(f"{name!r} is a group of tasks.", hint=f"name one of its tasks: {PREFIX}TASK")
    loaded = manager.load([name])["tasks"]
    return loaded[name]


def _run(
    model: Any,
    tokenizer: Any,
    way: Way,
    shared: SharedScores,
    task: str,
    drawn: Sequence[int],
    manager: TaskManager,
    batch_size: int,
    seed: int,
) -> _Row:
    """One row of the report."""
    with _without_warnings():
        lm = DolaLM(model, layers="off", tokenizer=tokenizer, batch_size=batch_size)
    lm.use(way.recipe or Recipe(None), shared)
    penalty = {} if way.repetition_penalty == 1.0 else {"gen_kwargs": {"repetition_penalty": way.repetition_penalty}}
    try:
        results = simple_evaluate(
            lm, tasks=[task], samples={task: list(drawn)}, task_manager=manager, bootstrap_iters=0, log_samples=True,
            random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed, **penalty,
        )  # fmt: skip
    except OverflowError:  # of exp, in the harness: an implausible token scores 1,000 nats below
        raise InputError(
            f"A metric of {task} overflows under {way.name}, whose implausible tokens score 1,000 nats below all others.",
            hint="--scores distribution scores no token so low",
        ) from None
    assert results is not None
    place = {number: at for at, number in enumerate(drawn)}
    values: dict[str, dict[int, float]] = {}
    logged = results["samples"][task]

    def place_of(sample: Mapping[str, Any]) -> int:
        number = sample["doc_id"]
        return place[number if number in place else drawn[number]]

    for each in logged:
        for metric in each["metrics"]:
            value = each.get(metric)
            if isinstance(value, (int, float)):
                values.setdefault(f"{metric},{each['filter']}", {})[place_of(each)] = float(value)
    whole = {key: [of[i] for i in range(len(drawn))] for key, of in values.items() if len(of) == len(drawn)}
    wanted = ("doc", "target", "resps", "filtered_resps")  # not the prompts, which may be long
    samples = {place_of(each): {name: each[name] for name in wanted} for each in reversed(logged)}  # of the first filter
    return _Row(whole, results["results"][task], [samples[i] for i in range(len(drawn))])


@contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence the harness inside. It warns of each model that is loaded already, once for each row."""
    logger = logging.getLogger("lm_eval.models.huggingface")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _mean_metrics(loaded: Any, found: Mapping[str, _Row]) -> tuple[Metric, ...]:
    """The metrics that are a mean over items, in the order of the task."""
    aggregation = loaded.aggregation()
    rows = [of.values for of in found.values()]
    names = [key for key in rows[0] if all(key in of for of in rows) and aggregation.get(key.partition(",")[0]) is mean]
    if not names:
        raise InputError(
            f"{loaded.config.task} has no metric that is a mean over items, so nothing can be paired.",
            hint="dola lm-eval --model dola runs it without verdicts",
        )

    def binary(key: str) -> bool:
        return all(value in (0, 1) for of in rows for value in of[key])

    return tuple(Metric(key, f"as lm-evaluation-harness computes {key}", binary=binary(key)) for key in names)


def _others(loaded: Any, metrics: Sequence[Metric], found: Mapping[str, _Row]) -> list[str]:
    """Sentences with the harness's results for metrics that are not a mean over items."""
    taken = {metric.name for metric in metrics}
    said = []
    first = next(iter(found.values())).results
    for key in first:
        plain = key.partition(",")[0]
        if key in taken or plain not in loaded.aggregation():
            continue
        known = {row: of.results[key] for row, of in found.items() if isinstance(of.results.get(key), (int, float))}
        each = ", ".join(f"{row} {value:.4g}" for row, value in known.items())
        said.append(f"{key} is not a mean over items, so it has no verdict: {each}.")
    return said


def _as_task(name: str, metrics: tuple[Metric, ...]) -> ChoiceTask:
    """The task with the facts that a report needs."""
    return ChoiceTask(
        name=f"{PREFIX}{name}",
        description="a task of lm-evaluation-harness",
        files=(),
        homepage="",
        published={},
        hub=None,
        make_items=lambda data: [],
        metrics=metrics,
        measure=lambda item, scores, tokens: {},
        paper=NO_PAPER,
    )
