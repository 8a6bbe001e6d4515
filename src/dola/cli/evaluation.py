"""Options that `dola eval` and `dola tune` share: a sample of a task, a checked output file."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dola.cli import options
from dola.cli.endings import importing
from dola.errors import UsageError
from dola.files import text_file
from dola.methods.config import DoLaConfig
from dola.methods.names import RECOMMENDED_PENALTY

if TYPE_CHECKING:
    from dola.evidence.sample import Sample
    from dola.loading.models import LoadedModel
    from dola.methods.facts import Setting
    from dola.tasks import Task

TASK_NAMES = (
    "truthfulqa-mc",
    "truthfulqa-binary",
    "truthfulqa-open",
    "factor-news",
    "factor-wiki",
    "factor-expert",
    "memotrap",
    "nq-open",
    "strategyqa",
    "gsm8k",
    "vicuna",
)
"""The names in `dola.tasks.TASKS`, so that the help need not import it."""

Data = Annotated[
    list[str] | None,
    typer.Option(
        help="Data of the task: a file, a folder that contains it, or a hub id. Repeat it for several files.",
        show_default="the task's place on the hub",
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Number of items to draw, with --seed.", show_default="all", callback=options.between(1))
]
Seed = Annotated[
    int, typer.Option(help="Seed of all draws: items, folds, random layers, intervals.", callback=options.between(0, 2**31))
]
BY_TASK = "as in the paper's run of the task"
"""The default shown for settings in which the paper's runs of the tasks differ."""
Results = Annotated[
    Path | None,
    typer.Option(help="Save results to this file. Re-run the command to resume after an interruption."),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Prompts at a time, in tasks that generate.", show_default="8", callback=options.between(1))
]


def set_by_tasks() -> list[Setting]:
    """The settings that the task determines: they are the same for all candidates of `tune`."""
    return [each for each in DoLaConfig.options() if each.facts.by_task]


def find_sample(name: str, data: list[str] | None, limit: int | None, seed: int) -> Sample:
    """The items that the options select.

    Raises:
        UsageError: The task does not exist.
        DataError, MissingExtraError: See `Sample.of`.
    """
    from dola.evidence.sample import Sample, find_task

    return Sample.of(find_task(name), data or (), limit=limit, seed=seed)


def penalty_option(what: str) -> Any:
    """The option of the repetition penalty.

    Args:
        what: Its help.
    """
    return typer.Option(help=what, show_default=str(RECOMMENDED_PENALTY), callback=options.between(0.01))


def check_use(task: Task, used: bool, given: Mapping[str, Any]) -> None:
    """Refuse given options (by flag, None if not given) unless the task uses them."""
    for flag, value in given.items():
        if value is not None and not used:
            raise UsageError(f"{flag} does not apply to {task.name}.", hint=f"omit {flag}")


def check_writable(files: Mapping[str, Path | None]) -> None:
    """Check before hours of work that the files (by flag) can be written."""
    for flag, path in files.items():
        try:
            if path is not None:
                text_file.check_writable(path)
        except OSError as error:
            raise UsageError(f"{flag} {str(path)!r}: {error.strerror}.", hint="check the path") from None


def check_apart(written: Mapping[str, Path | None], read: Iterable[str | Path | None]) -> None:
    """Refuse to write two things to one file, or over a file that this run reads.

    Args:
        written: Files to write, by flag.
        read: Files to read, and any other names, which are ignored.
    """
    inputs = {Path(name).resolve() for name in read if name is not None and os.path.isfile(name)}  # of any text
    seen: dict[Path, str] = {}
    for flag, path in written.items():
        if path is None or (path.exists() and not path.is_file()):  # such as /dev/null
            continue
        place = path.resolve()
        if place in inputs:
            raise UsageError(f"{flag} {str(path)!r} is a file that this command reads.", hint=f"give {flag} a name of its own")
        if place in seen:
            raise UsageError(f"{seen[place]} and {flag} name one file, {str(path)!r}.", hint="give each a file of its own")
        seen[place] = flag


def load_model(name: str, *, threads: int | None, **loading: Any) -> LoadedModel:
    """`options.load_model` with a number of torch threads."""
    if threads is not None:
        with importing():
            import torch

        torch.set_num_threads(threads)
    return options.load_model(name, **loading)
