"""`dola eval --signals`: the option, what it refuses, the run, and the fields of its JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import evaluation, options, own_data
from dola.cli.endings import importing
from dola.cli.output import note, print_json, stdout
from dola.errors import UsageError
from dola.files.whole_file import write_whole
from dola.methods.config import DoLaConfig

if TYPE_CHECKING:
    from rich.console import Console

    from dola.evidence.sample import Sample
    from dola.evidence.signal_report import SignalReport
    from dola.methods.config import MethodConfig

SCHEMA_NAME = "dola.signals/1"
SCHEMA = {
    "task": "name of the task",
    "model": "--model as given",
    "dtype": "dtype of the weights",
    "origins[].name": "source of the items",
    "origins[].sha256": "SHA-256 of the file, or of a hub data set's rows as sorted JSON lines",
    "origins[].known": "whether it is, byte for byte, a file that published numbers were made with",
    "item_ids": "ids of the items, in the order of `answers` and `groups`",
    "total": "number of items in the data",
    "seed": "--seed: seed of drawn items and of the bootstrap",
    "config": "settings with which the layers were read, a DoLaConfig field by field",
    "candidates": "the candidate layers",
    "right_means": "what makes an answer right",
    "answers[].right": "whether the answer is right",
    "answers[].text": "the answer: generated, or the likeliest of the given ones",
    "answers[].tokens": "number of its tokens",
    "answers[].signals": "by signal and control: its value",
    "groups": "the group of each item if the data have groups, else null",
    "versions": "versions of dola, torch, transformers and python",
    "notes": "what a reader must know: prompts that were cut",
    "sentence": "the answer in one sentence",
    "lines": "how the numbers were made, and what else they show",
    "control": "the control to beat; null without right or without wrong answers",
    "quantities": "by number of a token: one line on it",
    "signals": "by signal and control: auroc with low and high of its 95% interval, difference from the control with its "
    "interval, p_value of the difference from the control or, if that is larger, from 0.5, alone and adjusted within the "
    "family (Holm), and whether it beats the control, without repeated answers as well; empty without right or without wrong "
    "answers",
}
"""Fields of `dola eval --signals --json`: one object."""

Signals = Annotated[
    bool,
    typer.Option(
        "--signals",
        help="Report instead how well signals of a trace (divergence, entropy, ranks) tell right from wrong answers of plain "
        "decoding.",
    ),
]


def run(
    sample: Sample,
    model: str,
    config: MethodConfig,
    unused: Mapping[str, Any],
    *,
    layers: str | None,
    threads: int | None,
    loading: Mapping[str, Any],
    results: Path | None,
    markdown: Path | None,
    json: bool,
) -> None:
    """Run the report and print it.

    Args:
        sample: The items.
        model: `--model`.
        config: Settings with which layers are read.
        unused: Options of `dola eval` that mean nothing here, by flag.
        layers: `--layers`; without it those of the model's generation config are taken, if it names some.
        threads, loading, results, markdown, json: The options of the same names.

    Raises:
        UsageError: One of `unused` was given, the method is not DoLa, or the task's answers are not right or wrong.
    """
    if given := [name for name, value in unused.items() if value]:
        raise UsageError(f"{given[0]} does not apply to --signals.", hint=f"omit {given[0]}")
    if not isinstance(config, DoLaConfig):
        raise UsageError(f"--signals reads DoLa's contrast, and --method is {config.method}.", hint="omit --method")
    with importing():
        from dola.evidence.signal_report import report_signals
        from dola.evidence.traced_answers import check_task

    check_task(sample.task)
    evaluation.check_writable({"--markdown": markdown, "--results": results})
    own_data.say_how(sample)
    loaded, tokenizer = evaluation.load_model(model, threads=threads, **loading)
    settled = config if layers is not None else options.settle_layers(config, None, loaded)[0]
    assert isinstance(settled, DoLaConfig)
    report = report_signals(loaded, tokenizer, sample, name=model, config=settled, results=results)
    if markdown is not None:
        write_whole(markdown, report.markdown())
        note(f"wrote {markdown}")
    if json:
        print_json(SCHEMA_NAME, report.to_json())
    else:
        render(stdout(), report)


def render(console: Console, report: SignalReport) -> None:
    """Print a report: the answer, one table with the controls below, then how it was made."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from dola.evidence.signal_report import HEAD
    from dola.evidence.signals import signal_names

    console.print(Text(f"Warning signs: {report.task}, {report.model}, {report.dtype}", style="bold"))
    console.print(Text(report.sentence, style="bold"))
    console.print(Text(report.summary))
    if report.rows:
        table = Table(*HEAD, box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
        for row in report.rows:
            if row[0] not in signal_names() and table.rows and not any(each.end_section for each in table.rows):
                table.add_section()
            table.add_row(*row, style="bold" if row[0] in report.winners else None)
        console.print(table)
        console.print()
    for line in report.lines:
        console.print(Text(f"- {line}"))
