"""`dola eval`: evaluates a model on a task with DoLa, without it, and with controls that explain a difference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import course, evaluate_harness, evaluation, judging, options, own_data, report_files, warning_signs
from dola.cli.output import note, print_json, stdout
from dola.cli.values import between
from dola.errors import UsageError
from dola.files.whole_file import write_whole

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.sample import Sample
    from dola.evidence.ways import Way
    from dola.methods.config import MethodConfig

SCHEMA_NAME = "dola.eval/1"
SCHEMA = {
    "task": "name of the task",
    "model": "--model as given",
    "dtype": "dtype of the weights",
    "origins[].name": "source of the items",
    "origins[].sha256": "SHA-256 of the file, or of a hub data set's rows as sorted JSON lines",
    "origins[].known": "whether it is, byte for byte, a file that published numbers were made with",
    "item_ids": "ids of the items, in the order of all lists of values",
    "total": "number of items in the data",
    "seed": "--seed: seed of drawn items, folds, random layers, ties of the length control, sampling and bootstrap",
    "settings.dola": "settings of the DoLa rows, a DoLaConfig field by field",
    "settings.repetition_penalty": "repetition penalty of DoLa and of its control; tasks that generate",
    "settings.batch_size": "prompts at a time; tasks that generate",
    "settings.max_new_tokens": "maximum length of an answer; tasks that generate",
    "settings.stop": "strings that end an answer; tasks that generate",
    "settings.temperature": "sampling temperature, null means greedy; tasks that generate",
    "settings.judges": "models that judged truth and information; null without judges",
    "metrics": "names of the metrics; the first one decides",
    "chance": "by metric: the value without any knowledge, null if that is undefined",
    "ways[].name": "name of the compared way; vanilla is the first",
    "ways[].description": "one line on it",
    "ways[].control": "whether it is a control, which explains the others",
    "ways[].estimates": "by metric: items, mean, low and high of the 95% interval, in [0, 1]",
    "ways[].comparisons": "by metric, against vanilla on the same items: both means, difference, its 95% interval, items "
    "that are higher and lower, McNemar's p_value or null; empty for vanilla",
    "ways[].layers": "by premature layer: share of tokens at which it was contrasted, or was all that another method used",
    "ways[].implausible": "mean number of tokens of a continuation outside the plausible set, or null",
    "ways[].items": "by metric: the value of each item; of the first items if --sequential decided the row early",
    "ways[].texts": "generated text of each item; empty for tasks that score",
    "ways[].unfinished": "whether the length limit cut the text of each item; empty for tasks that score",
    "ways[].chosen": "answer that the row chose for each item; empty for tasks that generate",
    "ways[].mass": "probability of the right answers of each item among all its answers; empty for tasks that generate",
    "ways[].isolates": "what a control shows by itself: penalty, length, random (layer), none (no contrast), flat or sharp "
    "(plausible set); else null",
    "versions": "versions of dola, torch, transformers and python",
    "notes": "what a reader must know: contexts that were cut, data that differ from the published ones",
    "files": "written files, for tasks whose answers another program judges",
    "groups": "the group of each item if the data have groups, else null",
    "smallest": "--smallest: the difference in the first metric that matters, as a share",
    "counts": "by row: what its answers are like: mean words, items that changed, better, worse, longer; for written answers "
    "also empty, refused, without the form asked for, cut at the length limit (unfinished)",
    "by_group": "row, group, items, difference in the first metric, p-value, p-value among all groups and rows (Holm), "
    "interval where that is below 5%; groups of 10 items or more",
    "changed": "by judged row: better and worse, up to ten items each whose answers changed most, with id, question, right "
    "answers, answers before (vanilla) and after ([...] marks one that the length limit cut), values, and mass (probability of "
    "the right answers) under both",
    "traces": "with --trace-items, an object for each answer: item (its id), row (whose answer it is: vanilla, then the row "
    "that changed it), read_as (the row whose settings the layers were read with), same (whether the traced text is the row's "
    "answer: written ones are decoded again, outside their batch), trace (as dola trace --json prints it)",
    "items[].question": "what is asked, without what all items have in common",
    "items[].right": "right answers, the best one first; empty where none is known",
    "items[].wrong": "wrong answers that are scored beside them",
    "items[].group": "group of the item, or null",
    "descriptions": "by metric: one line on it",
    "higher_is_better": "whether a higher value of the first metric is better",
    "looks": "with --sequential: number of items before each planned look; else empty",
    "verdict": "the answer in one sentence",
    "findings": "by row that is proposed for use: its verdict on the first metric (better, worse, no difference, cannot tell), "
    "difference with interval, p-value alone and within the family (Holm), items that it rests on, items that would detect "
    "`smallest`, and the look that decided (with --sequential, from 1; else null)",
    "verdicts": "the verdict on each row that is proposed for use, a sentence each",
    "sentences": "the verdicts, then all sentences of `details`",
    "details[].title": "title of a section: how to read the report, reasons, what was run",
    "details[].lines": "its sentences",
}
"""Fields of `dola eval --json`: one object."""

OTHER_SCHEMAS = {warning_signs.SCHEMA_NAME: warning_signs.SCHEMA}
"""What `--json` prints with `--signals`."""


MoreLayers = Annotated[
    str | None,
    typer.Option(
        "--layers",
        help=f"Layers of one more row: {options.LAYERS_HELP}.",
        show_default="dola_layers of the model's generation config, if any",
    ),
]


@options.method_options(layers=MoreLayers, by_task=evaluation.BY_TASK)
def command(
    task: Annotated[
        str, typer.Argument(help=f"A file of your own questions, lm-eval:TASK, or one of {', '.join(evaluation.TASK_NAMES)}.")
    ],
    data: evaluation.Data = None,
    check: own_data.Check = False,
    include_path: Annotated[
        Path | None, typer.Option(help="For lm-eval:TASK: a folder with tasks as YAML files.", show_default=False)
    ] = None,
    column: own_data.Column = None,
    prompt_template: own_data.Template = None,
    shots: own_data.Shots = None,
    max_new_tokens: own_data.MaxNewTokens = None,
    model: options.Model = "smollm2",
    dola: options.MethodOptions = options.DEFAULTS,
    repetition_penalty: Annotated[
        float | None,
        evaluation.penalty_option("Repetition penalty of DoLa, and of a control, in tasks that generate."),
    ] = None,
    ways: Annotated[
        str,
        typer.Option(help="Rows: standard, methods, full (both, and other settings of DoLa), or a JSON file that lists them."),
    ] = "standard",
    smallest: Annotated[
        float,
        typer.Option(help="The difference that matters to you, in points, for the verdicts.", callback=between(0.01, 100)),
    ] = 2.0,
    sequential: course.Sequential = False,
    signals: warning_signs.Signals = False,
    trace_items: report_files.TraceItems = 0,
    limit: evaluation.Limit = None,
    seed: evaluation.Seed = 0,
    batch_size: evaluation.BatchSize = None,
    judge: judging.JudgeName = None,
    info_judge: judging.InfoJudge = None,
    judge_url: judging.JudgeUrl = None,
    answers: Annotated[
        Path | None, typer.Option(help="For vicuna: folder for FastChat's answer files, one for each way.")
    ] = None,
    results: evaluation.Results = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the report as Markdown to this file.")] = None,
    html: report_files.Html = None,
    chart: Annotated[Path | None, typer.Option(help="Also write a chart: .png, .svg or .pdf.")] = None,
    dtype: options.DTypeOption = None,
    device: options.Device = None,
    threads: options.Threads = None,
    config: options.ConfigFile = None,
    trust_remote_code: options.TrustRemoteCode = False,
    json: options.Json = False,
) -> None:
    """Report whether DoLa helps a model on a task or a file.

    Compares DoLa's low and high layers with plain decoding, and with controls that show where a gain comes from. On multiple
    choice these are a fixed layer, a scorer that only counts tokens, random layers and the constraint alone; where answers are
    written, it is the repetition penalty. --method puts another method in DoLa's place.

    \b
    Examples:
      dola eval questions.csv -m MODEL
      dola eval truthfulqa-mc --data TruthfulQA.csv --limit 100
      dola eval factor-news --data news_factor.csv --results run.jsonl --markdown report.md
      dola eval strategyqa --data train.json --data dev.json --limit 50 --batch-size 4
    """
    written = {"--html": html, "--markdown": markdown, "--chart": chart, "--results": results}
    evaluation.check_apart(written, (task, *(data or ()), shots, ways, config))
    if not dola.is_dola:
        _own({}, dola)  # a mistyped method is found before any data are read
    own_file = own_data.OwnData(column or (), prompt_template, shots, max_new_tokens, judged=judge is not None)
    loading: dict[str, Any] = {"dtype": dtype, "device": device, "trust_remote_code": trust_remote_code}
    if evaluate_harness.is_harness(task):
        evaluation.check_writable({"--html": html, "--markdown": markdown})
        _check_chart(chart)
        unused = {"--data": data, "--check": check, "--judge": judge, "--answers": answers, "--results": results,
                  "--sequential": sequential, "--signals": signals, "--trace-items": trace_items}  # fmt: skip
        own_file.check_unused(task)
        evaluate_harness.check(task, unused)
        report = evaluate_harness.run(
            task, model, _own({}, dola), include_path=include_path, limit=limit, seed=seed,
            ways=_rows(ways, {}), smallest=smallest / 100,
            repetition_penalty=repetition_penalty, batch_size=batch_size, threads=threads, loading=loading,
        )  # fmt: skip
        _write(report, markdown, html, chart)
        _print(report, json=json)
        return
    if include_path is not None:
        raise UsageError(f"--include-path does not apply to {task}.", hint="dola eval lm-eval:TASK --include-path FOLDER")
    sample = own_data.sample_of(task, data, own_file, limit=limit, seed=seed)
    if check:
        _print_check(task, sample)
        return
    if signals:
        refused: dict[str, Any] = {
            "--html": html, "--trace-items": trace_items, "--chart": chart, "--ways": ways != "standard",
            "--smallest": smallest != 2.0,
            "--sequential": sequential, "--answers": answers, "--judge": judge, "--info-judge": info_judge,
            "--judge-url": judge_url, "--repetition-penalty": repetition_penalty, "--batch-size": batch_size,
        }  # fmt: skip
        own = _own(sample.task.paper.settings, dola)
        warning_signs.run(sample, model, own, refused, layers=dola.layers, threads=threads, loading=loading,
                          results=results, markdown=markdown, json=json)  # fmt: skip
        return
    generated = {"--repetition-penalty": repetition_penalty, "--batch-size": batch_size}
    evaluation.check_use(sample.task, sample.task.generates, generated)
    judging.check(sample.task, judge, info_judge, judge_url)
    evaluation.check_use(sample.task, sample.task.measure is None, {"--answers": answers})
    sample.task.check_means(judge, answers)
    report_files.check_traces(sample.task, trace_items, html, json=json)
    evaluation.check_writable({"--html": html, "--markdown": markdown, "--results": results})
    _make_folder(answers)
    own = _own(sample.task.paper.settings, dola)
    rows = _rows(ways, sample.task.paper.settings)
    _check_chart(chart)
    judges = judging.judges(sample.task, judge, info_judge, judge_url, loading, results)
    own_data.say_how(sample)
    loaded, tokenizer = evaluation.load_model(model, threads=threads, **loading)
    if dola.layers is None:
        own = options.settle_layers(own, None, loaded)[0] or own
    from dola.evidence.evaluate import evaluate

    with judging.kept(results):
        report = evaluate(
            loaded,
            tokenizer,
            sample,
            name=model,
            dola=own,
            repetition_penalty=repetition_penalty,
            batch_size=batch_size or 8,
            judges=judges,
            answers=answers,
            results=results,
            ways=rows,
            smallest=smallest / 100,
            sequential=sequential,
            trace_items=trace_items,
            tell=course.teller(json=json),
        )
    _write(report, markdown, html, chart)
    _print(report, json=json)


def _own(usual_settings: Mapping[str, Any], dola: options.MethodOptions) -> MethodConfig:
    """The settings of the DoLa rows, by default those of the paper's run of the task. `off`, as tune writes it, adds no row."""
    usual = "high" if dola.is_dola else None
    found = replace(dola, layers=usual if dola.layers in (None, "off") else dola.layers).config(usual_settings)
    assert found is not None
    return found


def _print_check(task: str, sample: Sample) -> None:
    if not own_data.is_own(task):
        raise UsageError(f"--check is for a file of your own, and {task} is not one.", hint="dola eval --check questions.csv")
    console = stdout()
    for line in [*own_data.understood(sample), *own_data.needed(sample, rows=2 if sample.task.generates else 3)]:
        console.print(line, markup=False, soft_wrap=not console.is_terminal)  # piped text keeps its lines


def _rows(ways: str, usual_settings: Mapping[str, Any]) -> str | list[Way]:
    """A set's name, or the rows of a file. It is read once, before the model is loaded: mistakes in it are found at once."""
    from dola.evidence.rows import rows_by_name

    return rows_by_name(ways, usual_settings)


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


def _write(report: Report, markdown: Path | None, html: Path | None, chart: Path | None) -> None:
    """Write the requested files."""
    if markdown is not None:
        from dola.evidence.markdown_page import markdown as as_markdown

        write_whole(markdown, as_markdown(report))
        note(f"wrote {markdown}")
    report_files.write_html(report, html)
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
