"""Options that `dola eval` and `dola tune` share, and what they mean: a sample of a task, a checked output file."""

from __future__ import annotations

from collections.abc import Mapping
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
    "truthfulqa-open",
    "factor-news",
    "factor-wiki",
    "factor-expert",
    "memotrap",
    "strategyqa",
    "gsm8k",
    "vicuna",
)
"""Those of `dola.tasks.TASKS`, so that the help need not import it."""

Data = Annotated[
    list[str] | None,
    typer.Option(
        help="The task's data: a file, a folder that holds it under its own name, or a hub id. Repeat it for several files.",
        show_default="the task's place on the hub",
    ),
]
Limit = Annotated[
    int | None, typer.Option(help="Draw so many items, with --seed.", show_default="all", callback=options.between(1))
]
Seed = Annotated[
    int, typer.Option(help="Of all that is drawn: items, folds, random layers, intervals.", callback=options.between(0, 2**31))
]
BY_TASK = "as in the paper's run of the task"
"""The default of settings in which the paper's runs of the tasks differ."""
Results = Annotated[
    Path | None,
    typer.Option(help="Keep what is found in this file. Interrupted, the same command goes on where it ended."),
]
BatchSize = Annotated[
    int | None, typer.Option(help="Prompts at a time, in tasks that generate.", show_default="8", callback=options.between(1))
]


def set_by_tasks() -> list[Setting]:
    """The settings that a task gives: they are the same for all candidates of `tune`."""
    return [each for each in DoLaConfig.options() if each.facts.by_task]


def find_sample(name: str, data: list[str] | None, limit: int | None, seed: int) -> Sample:
    """The items that the options mean.

    Raises:
        UsageError: No such task.
        DataError, MissingExtraError: See `Sample.of`.
    """
    from dola.evidence.sample import Sample, find_task

    return Sample.of(find_task(name), data or (), limit=limit, seed=seed)


def penalty_option(what: str) -> Any:
    """The option of the repetition penalty.

    Args:
        what: What it is the penalty of, for the help.
    """
    return typer.Option(help=what, show_default=str(RECOMMENDED_PENALTY), callback=options.between(0.01))


def check_use(task: Task, used: bool, given: Mapping[str, Any]) -> None:
    """Refuse options that were given (by flag, None where they were not), unless the task has a use for them."""
    for flag, value in given.items():
        if value is not None and not used:
            raise UsageError(f"{flag} has no meaning for {task.name}.", hint=f"leave {flag} out")


def check_writable(files: Mapping[str, Path | None]) -> None:
    """Find out before the first hour of work that a file (by flag) cannot be written."""
    for flag, path in files.items():
        try:
            if path is not None:
                text_file.check_writable(path)
        except OSError as error:
            raise UsageError(f"{flag} {str(path)!r}: {error.strerror}.", hint="check the path") from None


def load_model(name: str, *, threads: int | None, **loading: Any) -> LoadedModel:
    """As `options.load_model`, with so many threads of torch."""
    if threads is not None:
        with importing():
            import torch

        torch.set_num_threads(threads)
    return options.load_model(name, **loading)
