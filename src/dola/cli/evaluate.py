"""`dola eval`: a model on a task, with DoLa, without it, and with the controls that tell where a difference comes from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import evaluation, options
from dola.cli.output import note, print_json, stdout
from dola.errors import UsageError

if TYPE_CHECKING:
    from dola.evidence.evaluate import Judges
    from dola.evidence.report import Report
    from dola.methods.config import MethodConfig
    from dola.tasks import Task

SCHEMA_NAME = "dola.eval/1"
SCHEMA = {
    "task": "its name",
    "model": "--model as given",
    "dtype": "of the weights",
    "origins[].name": "what the items were read from",
    "origins[].sha256": "of the file; of a hub data set, of its rows as sorted JSON lines",
    "origins[].known": "whether it is, byte for byte, a file that published numbers were made with",
    "item_ids": "of the items, in the order of all lists of values",
    "total": "how many items the data hold",
    "seed": "--seed: of the draw of items, folds, random layers, ties of the length control, sampling and bootstrap",
    "settings.dola": "of the DoLa rows, a DoLaConfig field by field",
    "settings.repetition_penalty": "of DoLa and of its control; tasks that generate",
    "settings.batch_size": "prompts at a time; tasks that generate",
    "settings.max_new_tokens": "length of an answer, at most; tasks that generate",
    "settings.stop": "strings that end an answer; tasks that generate",
    "settings.temperature": "of sampling, null is greedy; tasks that generate",
    "settings.judges": "who judged truth and information; null without judges",
    "metrics": "names of the metrics, the first one decides",
    "chance": "by metric: what it is without any knowledge, null where that means nothing",
    "ways[].name": "what was compared; vanilla is the first",
    "ways[].description": "one line on it",
    "ways[].control": "whether it is there to explain the others",
    "ways[].estimates": "by metric: items, mean, low and high of the 95% interval, in [0, 1]",
    "ways[].comparisons": "by metric, against vanilla on the same items: both means, difference, its 95% interval, items "
    "that are higher and lower, McNemar's p_value or null; empty for vanilla",
    "ways[].layers": "by premature layer: the share of tokens at which it was contrasted",
    "ways[].implausible": "mean number of tokens of a continuation outside the plausible set, or null",
    "ways[].items": "by metric: the value of each item",
    "ways[].texts": "what was generated for each item; empty for tasks that score",
    "versions": "of dola, torch, transformers and python",
    "notes": "what a reader must know: contexts that were cut, data that are not the published ones",
    "files": "that were written, for tasks whose answers are judged elsewhere",
    "sentences": "whether differences are more than noise, and whether the length of answers explains them",
}
"""Fields of `dola eval --json`: one object."""


MoreLayers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help=f"One more row beside low and high: {options.LAYERS_HELP}.",
        show_default="dola_layers of the model's generation config, if any",
    ),
]


@options.method_options(layers=MoreLayers, by_task=evaluation.BY_TASK)
def command(
    task: Annotated[str, typer.Argument(help=f"One of {', '.join(evaluation.TASK_NAMES)}.")],
    data: evaluation.Data = None,
    model: options.Model = "smollm2",
    dola: options.MethodOptions = options.DEFAULTS,
    repetition_penalty: Annotated[
        float | None,
        evaluation.penalty_option("Of DoLa, and of a control without it, in tasks that generate."),
    ] = None,
    limit: evaluation.Limit = None,
    seed: evaluation.Seed = 0,
    batch_size: evaluation.BatchSize = None,
    judge: Annotated[
        str | None, typer.Option(help="For truthfulqa-open: the model that judges whether answers are true.")
    ] = None,
    info_judge: Annotated[
        str | None,
        typer.Option(help="The one that judges whether they are informative.", show_default="the same as --judge"),
    ] = None,
    judge_url: Annotated[
        str | None,
        typer.Option(help="Where the judges are served, with OpenAI's completions interface.", show_default="on this machine"),
    ] = None,
    answers: Annotated[
        Path | None, typer.Option(help="For vicuna: the folder for FastChat's answer files, one for each way.")
    ] = None,
    results: evaluation.Results = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the report as Markdown to this file.")] = None,
    chart: Annotated[Path | None, typer.Option(help="Also write a picture: .png, .svg or .pdf.")] = None,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Report whether DoLa helps a model on a task, with controls and intervals.

    Compares vanilla, DoLa low and high, a fixed layer, and the paper's recipe. Controls show where a gain comes from: a scorer
    that only counts tokens, random layers, the constraint alone, the repetition penalty. See docs/evaluation.md.

    \b
    Examples:
      dola eval truthfulqa-mc --data TruthfulQA.csv --limit 100
      dola eval factor-news --data news_factor.csv --results run.jsonl --markdown report.md
      dola eval strategyqa --data train.json --data dev.json --limit 50 --batch-size 4
    """
    sample = evaluation.find_sample(task, data, limit, seed)
    generated = {"--repetition-penalty": repetition_penalty, "--batch-size": batch_size}
    evaluation.check_use(sample.task, sample.task.generates, generated)
    judging = {"--judge": judge, "--info-judge": info_judge, "--judge-url": judge_url}
    evaluation.check_use(sample.task, sample.task.judged, judging)
    evaluation.check_use(sample.task, sample.task.measure is None, {"--answers": answers})
    sample.task.check_means(judge, answers)
    evaluation.check_writable({"--markdown": markdown, "--results": results})
    _make_folder(answers)
    own = _own(sample.task, dola)
    _check_chart(chart)
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    loaded, tokenizer = evaluation.load_model(model, threads=threads, **loading)
    if dola.layers is None:
        own = options.settle_layers(own, None, loaded)[0] or own
    from dola.evidence.evaluate import evaluate

    report = evaluate(
        loaded,
        tokenizer,
        sample,
        name=model,
        dola=own,
        repetition_penalty=repetition_penalty,
        batch_size=batch_size or 8,
        judges=_judges(judge, info_judge, judge_url, loading),
        answers=answers,
        results=results,
    )
    _write(report, markdown, chart)
    _print(report, json=json)


def _own(task: Task, dola: options.MethodOptions) -> MethodConfig:
    """The settings of the DoLa rows. `off`, as `dola tune` may write it, asks for no further row."""
    usual = "high" if dola.is_dola else None
    found = replace(dola, layers=usual if dola.layers in (None, "off") else dola.layers).config(task.paper.settings)
    assert found is not None
    return found


def _judges(judge: str | None, info_judge: str | None, url: str | None, loading: dict[str, Any]) -> Judges | None:
    if judge is None:
        return None
    from dola.evidence.evaluate import Judges
    from dola.tasks.judge import EndpointJudge, Judge, ModelJudge

    def named(name: str) -> Judge:
        return ModelJudge(*options.load_model(name, **loading)) if url is None else EndpointJudge(name, url)

    truth = named(judge)
    info = truth if info_judge is None else named(info_judge)
    return Judges(truth, info, (judge, info_judge or judge))


def _make_folder(answers: Path | None) -> None:
    try:
        if answers is not None:
            answers.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--answers {str(answers)!r}: {error.strerror}.", hint="name a folder") from None


def _check_chart(chart: Path | None) -> None:
    if chart is not None:
        from dola.bench.chart import check_chart

        check_chart(chart)


def _write(report: Report, markdown: Path | None, chart: Path | None) -> None:
    """The files that are asked for beside what is printed."""
    if markdown is not None:
        from dola.evidence.report import markdown as as_markdown

        markdown.write_text(as_markdown(report), encoding="utf-8")
        note(f"wrote {markdown}")
    if chart is not None:
        from dola.evidence.chart import save_chart

        save_chart(report, chart)
        note(f"wrote {chart}")


def _print(report: Report, *, json: bool) -> None:
    if json:
        print_json(SCHEMA_NAME, report.to_json())
    else:
        from dola.evidence.table import render

        render(stdout(), report)
