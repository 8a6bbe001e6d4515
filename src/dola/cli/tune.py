"""`dola tune`: finds a method and settings for a model and a task, judged on held-out items, or recommends none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import evaluation, judging, options, own_data
from dola.cli.output import note, print_json, stdout
from dola.cli.values import between
from dola.errors import UsageError
from dola.methods.layers import parse

if TYPE_CHECKING:
    from rich.console import Console

    from dola.evidence.tune import Tuning

SCHEMA_NAME = "dola.tune/1"
SCHEMA = {
    "task": "name of the task",
    "model": "--model as given",
    "origins[].name": "source of the items",
    "origins[].sha256": "SHA-256 of the file, or of a hub data set's rows as sorted JSON lines",
    "origins[].known": "whether it is, byte for byte, a file that published numbers were made with",
    "total": "number of items in the data",
    "items": "number of items used",
    "seed": "--seed: seed of drawn items, folds, subsets and intervals",
    "metric": "the maximized metric",
    "config": "the recommended configuration, field by field, with method if that is not DoLa; null means plain decoding",
    "settings": "the same in the form of --output",
    "baseline": "what the choice is compared with: off, or off with the repetition penalty if that is better",
    "best": "the best candidate on all items used for choosing",
    "chosen": "the candidates that were judged on the held-out items: one for each fold, or one for the subset",
    "gain": "gain of the chosen candidates over off on held-out items: items, both means, difference, its 95% interval, items "
    "that are higher and lower, McNemar's p_value or null",
    "finding": "the verdict on the gain (better, worse, no difference, cannot tell), its numbers, and the items that would "
    "detect --smallest; the choice is recommended if it is better",
    "candidates": "by candidate: mean of the metric over the items used for choosing",
    "truncated": "number of contexts that were cut to fit the model's window",
    "unfinished": "by row: answers to held-out items that the length limit cut; empty for multiple choice",
    "sentence": "a sentence on the held-out gain, if anything was chosen, and the recommendation",
}
"""Fields of `dola tune --json`: one object."""


Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="Method to try: dola, or one of dola methods. Repeat it for several; off is always tried.",
        show_default="dola",
    ),
]
Strengths = Annotated[
    str | None,
    typer.Option(help="Strengths of DoLa to try beside 1.", show_default="0.25,0.5; none in tasks that generate"),
]
Thresholds = Annotated[
    str | None,
    typer.Option(
        help="Plausibility thresholds of DoLa to try, such as 0.05,0.1,0.3.", show_default="the one of --relative-top"
    ),
]
Lens = Annotated[
    str | None,
    typer.Option(help="Lens to try, a file or a hub id: candidates with it and without it.", show_default=False),
]


@options.method_options(method=False, by_task=evaluation.BY_TASK, fields=evaluation.set_by_tasks())
def command(
    task: Annotated[str, typer.Argument(help=f"A file of your own questions, or one of {', '.join(evaluation.TASK_NAMES)}.")],
    data: evaluation.Data = None,
    column: own_data.Column = None,
    prompt_template: own_data.Template = None,
    shots: own_data.Shots = None,
    max_new_tokens: own_data.MaxNewTokens = None,
    model: options.Model = "smollm2",
    metric: Annotated[
        str | None, typer.Option(help="Metric to maximize.", show_default="the task's first metric, mc1 for TruthfulQA")
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            help="Folds of multiple-choice tasks: choose on all but one, judge on that one.",
            show_default="2",
            callback=options.between(2),
        ),
    ] = None,
    train: Annotated[
        int | None,
        typer.Option(help="Items to choose on, in tasks that generate.", show_default="half", callback=options.between(1)),
    ] = None,
    static: Annotated[
        str | None,
        typer.Option(help="Single layers to try in tasks that generate, such as 8,14,20.", show_default="none"),
    ] = None,
    method: Methods = None,
    strengths: Strengths = None,
    thresholds: Thresholds = None,
    lens: Lens = None,
    dola: options.MethodOptions = options.DEFAULTS,
    repetition_penalty: Annotated[
        float | None,
        evaluation.penalty_option("Repetition penalty of DoLa, in tasks that generate."),
    ] = None,
    smallest: Annotated[
        float, typer.Option(help="The difference that matters to you, in points, for the verdict.", callback=between(0.01, 100))
    ] = 2.0,
    limit: evaluation.Limit = None,
    seed: evaluation.Seed = 0,
    batch_size: evaluation.BatchSize = None,
    results: evaluation.Results = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the settings to this JSON file, for --config of other commands.")
    ] = None,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Find settings that help a model on a task, if any do.

    Tries off, low, high and single layers; on multiple-choice tasks, each with both divergences, with and without the final
    norm, and at several strengths. --method, --strengths, --thresholds and --lens add to that. It chooses on some items and
    judges on others, with one test. Unless the verdict there is better, the answer is off.

    \b
    Examples:
      dola tune factor-news --data news_factor.csv --output tuned.json
      dola generate "The capital of Washington State is" --config tuned.json
      dola tune questions.csv -m MODEL --method dola --method sled --output tuned.json
      dola tune gsm8k --data test.jsonl --limit 200 --train 50 --static 8,14
    """
    own_file = own_data.OwnData(column or (), prompt_template, shots, max_new_tokens)
    numbers = {"--strengths": _numbers("--strengths", strengths), "--thresholds": _numbers("--thresholds", thresholds)}
    _check_space(method or ["dola"], numbers, dola.given)
    sample = own_data.sample_of(task, data, own_file, limit=limit, seed=seed)
    if not sample.task.measured_alone:
        raise UsageError(f"{task} has no metric to choose by without a judge.", hint="dola tune truthfulqa-mc --data FILE")
    generated = {"--train": train, "--static": static, "--repetition-penalty": repetition_penalty, "--batch-size": batch_size}
    evaluation.check_use(sample.task, sample.task.generates, generated)
    evaluation.check_use(sample.task, not sample.task.generates, {"--folds": folds})
    layers = () if static is None else parse(static)
    if not isinstance(layers, tuple):
        raise UsageError(f"--static {static!r} is not a list of numbers separated by commas.", hint="--static 8,14")
    evaluation.check_apart({"--output": output, "--results": results}, (task, *(data or ()), shots))
    evaluation.check_writable({"--output": output, "--results": results})
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    own_data.say_how(sample)
    loaded, tokenizer = evaluation.load_model(model, threads=threads, **loading)
    from dola.evidence.tune import tune

    with judging.kept(results):
        found = tune(
            loaded,
            tokenizer,
            sample.task,
            sample.items,
            metric=metric,
            folds=folds or 2,
            train=train,
            static=layers,
            methods=method or ("dola",),
            strengths=numbers["--strengths"],
            thresholds=numbers["--thresholds"] or (),
            lens=lens,
            **dola.given,
            repetition_penalty=repetition_penalty,
            smallest=smallest / 100,
            batch_size=batch_size or 8,
            seed=seed,
            results=results,
            facts=sample.facts,
        )
    if output is not None:
        found.save(output)
        note(f"wrote {output}")
    if json:
        head = {"model": model, "origins": [asdict(origin) for origin in sample.origins], "total": sample.total}
        print_json(SCHEMA_NAME, {**head, **found.to_json()})
    else:
        _render(stdout(), found)


def _numbers(flag: str, text: str | None) -> list[float] | None:
    """The numbers of an option, which commas separate."""
    if text is None:
        return None
    try:
        return [float(each) for each in text.split(",")]
    except ValueError:
        raise UsageError(f"{flag} {text!r} is not a list of numbers separated by commas.", hint=f"{flag} 0.25,0.5") from None


def _check_space(methods: list[str], numbers: dict[str, list[float] | None], given: Mapping[str, Any]) -> None:
    """Refuse what cannot be tried before a model is loaded."""
    from dola.evidence.candidates import check_space
    from dola.methods.registry import METHODS, broken_methods

    broken = broken_methods()
    if failing := [broken[name] for name in methods if name in broken]:
        raise failing[0]
    if unknown := [name for name in methods if name not in METHODS]:
        raise UsageError(f"--method {unknown[0]!r} is unknown; allowed are {', '.join(METHODS)}.", hint="--method dola")
    if "dola" not in methods and (used := [flag for flag, found in numbers.items() if found]):
        raise UsageError(f"{used[0]} is for DoLa, which is not among the methods.", hint="add --method dola")
    if numbers["--thresholds"] and given:
        raise UsageError("--relative-top and --thresholds were both given.", hint="give one of them")
    check_space(methods, numbers["--strengths"] or (), numbers["--thresholds"] or ())


def _render(console: Console, found: Tuning) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("candidate")
    table.add_column(found.metric, justify="right")
    table.add_column("chosen")
    for name, mean in sorted(found.candidates.items(), key=lambda each: -each[1]):
        times = found.chosen.count(name)
        table.add_row(name, f"{100 * mean:.1f}", f"{times} of {len(found.chosen)}" if times else "")
    console.print(table)
    for line in found.notes:
        console.print(Text(line))
    console.print(Text(found.sentence))
    if found.tested:
        console.print(
            Text("The settings were chosen with the figures in this table; only the held-out figure above is unbiased.")
        )
