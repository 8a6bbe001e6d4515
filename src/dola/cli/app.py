"""The verbs of the `dola` command. A verb is a file with a `command`, registered by one line here.

This file is read for every `dola --help`: no verb imports torch or transformers before it runs.
"""

import os
import sys
from typing import Annotated

import typer

from dola._version import __version__
from dola.cli import bench, compare, doctor, evaluate, generate, lm_eval, models, serve, trace, tune, ui
from dola.cli.endings import in_words
from dola.cli.output import quiet_bars

app = typer.Typer(
    help="DoLa: decode by contrasting layers, with any Hugging Face causal language model.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("generate")(generate.command)
app.command("compare")(compare.command)
app.command("trace")(trace.command)
app.command("ui")(ui.command)
app.command("doctor")(doctor.command)
app.command("bench")(bench.command)
app.command("eval")(evaluate.command)
app.command("tune")(tune.command)
app.command("lm-eval", context_settings=lm_eval.SETTINGS)(lm_eval.command)
app.command("serve", context_settings=serve.SETTINGS)(serve.command)
app.add_typer(models.app, name="models")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """DoLa: decode by contrasting layers, with any Hugging Face causal language model.

    \b
    Example:
      dola compare "On what date was the Declaration of Independence officially signed?"
    """
    if version:
        print(__version__)
        raise typer.Exit


def run() -> None:
    """The command's entry point."""
    quiet_bars()
    with in_words():
        command = typer.main.get_command(app)
        if "_DOLA_COMPLETE" in os.environ:  # the shell asks for completions
            command.main(prog_name="dola")
        # Not `app()`: it has endings of its own, among them exit code 1 where a pipe is closed.
        with command.make_context("dola", sys.argv[1:]) as context:
            command.invoke(context)
