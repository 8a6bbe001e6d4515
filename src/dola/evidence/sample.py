"""The items of an evaluation: all items of a task, or some of them, drawn with a seed."""

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
    """Items of a task, and their sources.

    Attributes:
        task: The task.
        items: The items to run, in the order of the data.
        origins: Their sources, with SHA-256.
        total: Number of items in the data.
        seed: Seed of the drawn items, if they are fewer than `total`, and of everything that is drawn later.
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
            sources: Paths or hub ids; a folder means the task's files in it. Without sources, the task's data set on the hub.
            limit: Number of items to draw; None takes all.
            seed: Seed of the draw.

        Raises:
            DataError, MissingExtraError: See `Task.open`.
            InputError: The limit is below 1.
        """
        paths = [path for source in sources for path in _files(task, source)]
        data = task.open(paths or None)
        items: Sequence[Any] = task.items(data)
        return cls.of_items(task, items, data.origins, limit=limit, seed=seed)

    @classmethod
    def of_items(
        cls, task: Task, items: Sequence[Any], origins: Sequence[Origin], *, limit: int | None = None, seed: int = 0
    ) -> Sample:
        """Make a sample from items. Arguments: see `of`.

        Raises:
            InputError: The limit is below 1.
        """
        if limit is not None and limit < 1:
            raise InputError(f"limit={limit} leaves no item; at least 1 is required.", hint="omit it for all items")
        chosen = items if limit is None or limit >= len(items) else draw(items, limit, seed)
        return cls(task, chosen, origins, len(items), seed)

    @property
    def facts(self) -> dict[str, str]:
        """Properties that results of this sample must match (`ResultsFile`)."""
        data = ", ".join(f"{origin.name} with SHA-256 {origin.sha256}" for origin in self.origins)
        return {"task": self.task.name, "data": data, "items": f"{len(self.items)} of {self.total}, seed {self.seed}"}


def groups_of(items: Sequence[Any]) -> list[str] | None:
    """The group of each item, if there are any. An item without one is its own group."""
    named = [getattr(item, "group", None) for item in items]
    if all(group is None for group in named):
        return None
    return [f"item {i}" if group is None else f"group {group}" for i, group in enumerate(named)]


def draw(items: Sequence[Any], count: int, seed: int) -> list[Any]:
    """`count` random items, in their order. A smaller draw with the same seed is not part of a larger one."""
    return [items[i] for i in sorted(random.Random(seed).sample(range(len(items)), count))]


def find_task(name: str) -> Task:
    """The task of that name.

    Raises:
        UsageError: No task has that name.
    """
    if name not in TASKS:
        raise UsageError(f"{name!r} is not a task. Tasks: {', '.join(TASKS)}.", hint="dola eval truthfulqa-mc --data FILE")
    return TASKS[name]


def _files(task: Task, source: str) -> list[str]:
    """The paths that a source means: a folder means the task's files in it."""
    if not Path(source).is_dir():
        return [source]
    paths = [Path(source, name) for name in task.files]
    if task.separate_files:
        paths = [path for path in paths if path.is_file()] or paths[:1]  # reading a missing one says what is missing
    return [str(path) for path in paths]
