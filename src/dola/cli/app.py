"""The verbs of the `dola` command. A verb is a file with a `command`, registered by one line here.

This file is read for every `dola --help`: no verb imports torch or transformers before it runs.
"""

import os
import sys
from typing import Annotated

import typer

from dola._version import __version__
from dola.cli import (
    bench,
    compare,
    doctor,
    evaluate,
    generate,
    lens,
    lm_eval,
    methods,
    mlx_server,
    models,
    serve,
    trace,
    tune,
    ui,
)
from dola.cli.endings import in_words
from dola.cli.help_page import SETTINGS, Verb, Verbs, first_page
from dola.cli.output import quiet_bars

app = typer.Typer(
    cls=Verbs,
    subcommand_metavar="COMMAND [ARGS]...",
    context_settings=SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("generate", cls=Verb)(generate.command)
app.command("compare", cls=Verb)(compare.command)
app.command("trace", cls=Verb)(trace.command)
app.command("ui", cls=Verb)(ui.command)
app.command("doctor", cls=Verb)(doctor.command)
app.command("bench", cls=Verb)(bench.command)
app.command("eval", cls=Verb)(evaluate.command)
app.command("tune", cls=Verb)(tune.command)
app.command("lm-eval", cls=Verb, context_settings=lm_eval.SETTINGS)(lm_eval.command)
app.command("serve", cls=Verb, context_settings=serve.SETTINGS)(serve.command)
app.command("mlx-server", cls=Verb, context_settings=mlx_server.SETTINGS)(mlx_server.command)
app.command("methods", cls=Verb)(methods.command)
app.add_typer(lens.app, name="lens")
app.add_typer(models.app, name="models")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False
) -> None:
    """DoLa: decode by contrasting layers, with any Hugging Face causal language model.

    \b
    Examples:
      dola compare "On what date was the Declaration of Independence officially signed?"
      dola generate "The capital of Washington State is" --model meta-llama/Llama-3.2-1B
      dola eval truthfulqa-mc --data TruthfulQA.csv
    """
    if version:
        print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(first_page(context), file=sys.stderr)
        raise typer.Exit(2)


def run() -> None:
    """The command's entry point."""
    quiet_bars()
    with in_words():
        command = typer.main.get_command(app)
        if "_DOLA_COMPLETE" in os.environ:  # the shell asks for completions
            command.main(prog_name="dola")
        # Not `app()`: it ends the process in its own way, for instance with exit code 1 if a pipe is closed.
        with command.make_context("dola", sys.argv[1:]) as context:
            command.invoke(context)
