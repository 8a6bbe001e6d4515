"""The verbs of the `dola` command, and what all of them share: errors in words, exit code 2."""

import sys
from typing import Annotated

import typer

from dola import __version__
from dola.cli import bench, compare, models
from dola.errors import DolaError

app = typer.Typer(
    help="DoLa: decode by contrasting layers, with any Hugging Face causal language model.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("bench")(bench.command)
app.command("compare")(compare.command)
app.add_typer(models.app, name="models")


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    """Options of the command itself."""
    if version:
        print(__version__)
        raise typer.Exit


def run() -> None:
    """The command's entry point."""
    try:
        app()
    except DolaError as error:
        print(f"dola: {error.message}\nHint: {error.hint}", file=sys.stderr)
        raise SystemExit(2) from None
