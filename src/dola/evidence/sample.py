"""The items that an evaluation runs on: all that a task's data hold, or so many of them, drawn with a seed."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dola.errors import InputError, UsageError
from dola.tasks import TASKS, Task
from dola.tasks.data import Origin


@dataclass(frozen=True)
class Sample:
    """Items of a task, and where they are from.

    Attributes:
        task: The task.
        items: Those that are run, in the order of the data.
        origins: What they were read from, with SHA-256.
        total: How many items the data hold.
        seed: That the items were drawn with, where there are fewer than `total`; and of all else that is drawn later.
    """

    task: Task
    items: Sequence[Any]
    origins: Sequence[Origin]
    total: int
    seed: int = 0

    @classmethod
    def of(cls, task: Task, sources: Sequence[str] = (), *, limit: int | None = None, seed: int = 0) -> Sample:
        """Read a task's data.

        Args:
            task: The task.
            sources: Paths or hub ids; a folder stands for the task's files in it. None means the task's place on the hub.
            limit: Draw so many items, rather than take all.
            seed: Of the draw.

        Raises:
            DataError, MissingExtraError: See `Task.open`.
            InputError: A limit below 1.
        """
        paths = [path for source in sources for path in _files(task, source)]
        data = task.open(paths or None)
        items: Sequence[Any] = task.items(data)
        if limit is not None and limit < 1:
            raise InputError(f"limit={limit} leaves no item; at least 1 is needed.", hint="leave it out for all items")
        chosen = items if limit is None or limit >= len(items) else draw(items, limit, seed)
        return cls(task, chosen, data.origins, len(items), seed)

    @property
    def facts(self) -> dict[str, str]:
        """What results of this sample must be of (`ResultsFile`)."""
        data = ", ".join(f"{origin.name} with SHA-256 {origin.sha256}" for origin in self.origins)
        return {"task": self.task.name, "data": data, "items": f"{len(self.items)} of {self.total}, seed {self.seed}"}


def draw(items: Sequence[Any], count: int, seed: int) -> list[Any]:
    """So many items at random, in their order. Fewer items of the same seed are not a part of more."""
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), count))]


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: There is none.
    """
    if name not in TASKS:
        raise UsageError(f"{name!r} is no task; there are {', '.join(TASKS)}.", hint="dola eval truthfulqa-mc --data FILE")
    return TASKS[name]


def _files(task: Task, source: str) -> list[str]:
    """The paths that a source means: a folder means the task's files in it."""
    if not Path(source).is_dir():
        return [source]
    paths = [Path(source, name) for name in task.files]
    if task.separate_files:
        paths = [path for path in paths if path.is_file()] or paths[:1]  # reading a missing one says what is missing
    return [str(path) for path in paths]
