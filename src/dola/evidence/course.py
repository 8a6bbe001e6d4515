"""The course of a run: all items at once, or in blocks with a look after each.

In a sequential run the order of the items is drawn before anything is computed. After a quarter, a half and three quarters of
them all rows are judged (`verdict.judge` with looks). Rows that are decided stop; vanilla and the controls continue, because
the open rows are compared with them. The run ends when no row is open. The items of a group always belong to one block.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from dola.errors import UsageError
from dola.evidence.finding import Finding
from dola.evidence.looks import ends
from dola.evidence.sample import Sample, groups_of
from dola.evidence.verdict import judge
from dola.evidence.ways import Role, Way

Table = dict[str, dict[str, list[float]]]
"""Way -> metric -> the value of each item so far."""
Tell = Callable[[str], None]
"""Prints a line for people who watch a run."""


@dataclass(frozen=True)
class Block:
    """Items that run between two looks.

    Attributes:
        number: Its number, from 0.
        items: The items.
        start: Number of items before it.
        sample: The sample that it is a part of.
        looks: Number of items before each look of a sequential run; empty for a run without looks.
    """

    number: int
    items: Sequence[Any]
    start: int
    sample: Sample
    looks: tuple[int, ...]

    @property
    def facts(self) -> dict[str, str]:
        """Properties that results of this block must match (`ResultsFile`)."""
        if not self.looks:
            return self.sample.facts
        order = f"items {self.start} to {self.start + len(self.items)} in drawn order, looks after {list(self.looks)}"
        return {**self.sample.facts, "sequential": order}

    def results(self, path: str | Path | None) -> str | Path | None:
        """The file of its results: the one that was named, and beside it one for each further block."""
        return path if path is None or not self.number else f"{path}.look{self.number + 1}"

    def seed(self, stride: int = 1) -> int:
        """A seed of its own, where each item draws `stride` times."""
        return self.sample.seed + stride * self.start


def in_drawn_order(sample: Sample) -> Sample:
    """The same items in an order that the seed draws, each group in one piece."""
    groups: dict[str, list[Any]] = {}
    labels = groups_of(sample.items) or [str(i) for i in range(len(sample.items))]
    for label, item in zip(labels, sample.items, strict=True):
        groups.setdefault(label, []).append(item)
    order = list(groups)
    random.Random(f"sequential {sample.seed}").shuffle(order)
    return replace(sample, items=[item for label in order for item in groups[label]])


def planned_looks(items: Sequence[Any]) -> tuple[int, ...]:
    """After how many items each look is: 25, 50, 75 and 100%, or where the group ends that is running then."""
    labels = groups_of(items) or [str(i) for i in range(len(items))]
    whole = [end for end in range(1, len(items) + 1) if end == len(items) or labels[end] != labels[end - 1]]
    return tuple(sorted({next(end for end in whole if end >= look) for look in ends(len(items))}))


@dataclass(frozen=True)
class Course:
    """How the rows of a report run.

    Attributes:
        ways: All rows.
        smallest: The difference that matters.
        looks: Number of items before each look; empty for all items at once.
        tell: Prints what each look decided.
    """

    ways: Sequence[Way]
    smallest: float
    looks: tuple[int, ...] = ()
    tell: Tell | None = None

    def follow(self, sample: Sample, run: Callable[[Block, list[Way]], Table]) -> tuple[Table, int]:
        """Run a sample's items, block by block.

        Args:
            sample: The items, in the order in which they run.
            run: Runs the ways that are not decided on a block, and returns the values of all items so far.

        Returns:
            The values by way and metric, and the number of items that ran. A row that was decided has the items up to its look.
        """
        live = list(self.ways)
        bounds = (0, *(self.looks or (len(sample.items),)))
        for number, (start, end) in enumerate(pairwise(bounds)):
            values = run(Block(number, sample.items[start:end], start, sample, self.looks), live)
            if end == bounds[-1]:
                break
            findings = self._findings(sample, values, end)
            live = [way for way in live if not way.role.judged or not findings[way.name].decided]
            if self.tell is not None:
                self.tell(_said(findings, number + 1, len(self.looks), end))
            if not any(way.role.judged for way in live):
                break
        return values, end

    def _findings(self, sample: Sample, values: Table, items: int) -> dict[str, Finding]:
        """What may be said of each row after so many items."""
        metric = sample.task.metrics[0].name
        [vanilla] = [way.name for way in self.ways if way.role is Role.VANILLA]
        return judge(
            values[vanilla][metric],
            {way.name: values[way.name][metric] for way in self.ways if way.role.judged},
            smallest=self.smallest,
            groups=groups_of(sample.items[:items]),
            looks=self.looks,
            seed=sample.seed,
        )


def planned(
    sample: Sample, ways: Sequence[Way], *, smallest: float, sequential: bool = False, tell: Tell | None = None
) -> tuple[Sample, Course]:
    """The items in the order in which they run, and their course.

    Raises:
        UsageError: A sequential run has nothing that a look could decide.
    """
    if not sequential:
        return sample, Course(ways, smallest)
    if sample.task.measure is None:
        raise UsageError(
            f"--sequential does not apply to {sample.task.name}, whose answers another program judges.",
            hint="omit --sequential",
        )
    if not any(way.role.judged for way in ways):
        raise UsageError("No row gets a verdict, so a sequential run has nothing to decide.", hint="omit --sequential")
    sample = in_drawn_order(sample)
    return sample, Course(ways, smallest, planned_looks(sample.items), tell)


def _said(findings: dict[str, Finding], look: int, looks: int, items: int) -> str:
    new = ", ".join(f"{name} {each.verdict.value}" for name, each in findings.items() if each.look == look)
    count = sum(not each.decided for each in findings.values())
    rows = "1 row is" if count == 1 else f"{count} rows are"
    return f"look {look} of {looks}, after {items:,} items: {new or 'nothing decided'}; {rows} open"
