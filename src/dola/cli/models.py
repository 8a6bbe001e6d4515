"""`dola models`: lists, fetches and removes the embedded models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli.help_page import Verb

if TYPE_CHECKING:
    from dola.loading.embedded import EmbeddedModel

app = typer.Typer(help="List, fetch and remove the embedded models. Example: dola models pull smollm2", no_args_is_help=True)

SCHEMA = {
    "cache": "folder of the models",
    "models[].alias": "name for --model",
    "models[].source": "hub id of the original weights",
    "models[].file": "name of the GGUF file in the cache",
    "models[].size": "size of that file in bytes",
    "models[].license": "name of the license",
    "models[].notice": "what the user must know about the license",
    "models[].state": "fetched, not fetched, or damaged (wrong size; fetching repairs it)",
    "models[].path": "path of the file, or null",
}
"""Fields of `dola models list --json`, schema dola.models/1."""

ALIASES = "smollm2, gemma3-270m"


@app.command("list", cls=Verb)
def list_(json: Annotated[bool, typer.Option("--json", help="Print one JSON object, schema dola.models/1.")] = False) -> None:
    """List the embedded models: size, license, and where each one is.

    \b
    Examples:
      dola models list
      dola models list --json
      DOLA_CACHE=/data/dola dola models list
    """
    from dola.cli.output import print_json, stdout
    from dola.files.cache_folder import cache_folder
    from dola.loading.embedded import EMBEDDED

    if json:
        models = [_as_json(model) for model in EMBEDDED.values()]
        print_json("dola.models/1", {"cache": str(cache_folder()), "models": models})
        return
    console = stdout()
    for model in EMBEDDED.values():
        console.print(model.alias, style="bold")
        console.print(f"  source   {model.source}, {model.size / 1e6:.0f} MB", soft_wrap=True)
        console.print(f"  license  {model.terms}", soft_wrap=True)
        # A path is never wrapped, so that it can be copied.
        console.print(f"  {_where(model)}", soft_wrap=True, markup=False)


@app.command(cls=Verb)
def pull(
    aliases: Annotated[list[str] | None, typer.Argument(metavar="ALIAS...", help=ALIASES, show_default=False)] = None,
) -> None:
    """Fetch embedded models into the cache, and print their paths.

    Models that are there are checked, and repaired if they are damaged.

    \b
    Examples:
      dola models pull
      dola models pull smollm2
      DOLA_CACHE=/data/dola dola models pull smollm2 gemma3-270m
    """
    from dola.errors import InputError
    from dola.loading.embedded import EMBEDDED, fetch

    if not aliases:
        raise InputError(
            f"`dola models pull` needs the name of a model. Available: {', '.join(EMBEDDED)}.",
            hint=f"dola models pull {next(iter(EMBEDDED))}",
        )
    for alias in aliases:
        print(fetch(alias))


@app.command(cls=Verb)
def path(alias: Annotated[str, typer.Argument(metavar="ALIAS", help=ALIASES)]) -> None:
    """Print the path of a model's GGUF file; fetch it first if needed.

    \b
    Examples:
      dola models path smollm2
      dola doctor "$(dola models path gemma3-270m)"
      llama-cli --model "$(dola models path smollm2)"
    """
    from dola.loading.embedded import fetch

    print(fetch(alias))


@app.command(cls=Verb)
def remove(alias: Annotated[str, typer.Argument(metavar="ALIAS", help=ALIASES)]) -> None:
    """Delete a model from the cache, and print the path that it had.

    \b
    Examples:
      dola models remove smollm2
      dola models remove gemma3-270m
      DOLA_CACHE=/data/dola dola models remove smollm2
    """
    from dola.cli.output import stderr
    from dola.loading.embedded import remove as remove_model

    if (gone := remove_model(alias)) is not None:
        print(gone)
    else:
        stderr().print(f"{alias} was not in the cache.")


def _as_json(model: EmbeddedModel) -> dict[str, Any]:
    return {
        "alias": model.alias,
        "source": model.source,
        "file": model.file,
        "size": model.size,
        "license": model.terms,
        "notice": model.license,
        "state": model.state,
        "path": str(model.path) if model.path.exists() else None,
    }


def _where(model: EmbeddedModel) -> str:
    if model.state == "not fetched":
        return f"state    not fetched: dola models pull {model.alias}"
    if model.state == "damaged":
        return f"state    damaged, to repair it: dola models pull {model.alias}"
    return f"fetched  {model.path}"
