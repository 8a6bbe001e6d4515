"""One row of a report: the means of its metrics, and its comparison with vanilla on the same items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from dola.evidence.paired import Labels, interval
from dola.evidence.statistics import Comparison, Estimate, compare, estimate
from dola.evidence.ways import Role, Way
from dola.scoring.recipe import PREMATURE
from dola.tasks import Metric


@dataclass(frozen=True)
class WayResult:
    """One way on the task.

    Attributes:
        name, description, role: See Way.
        estimates: The mean over items with its 95% interval, by metric.
        comparisons: The comparison with vanilla on the same items, by metric; empty for vanilla.
        layers: Share of tokens at which each premature layer was contrasted.
        implausible: Mean number of a continuation's tokens outside the plausible set; None if they were not counted.
        items: The value of each item, by metric, in the order of `Report.item_ids`.
        texts: The text generated for each item; empty for tasks that score.
        unfinished: Whether the length limit cut each text; empty for tasks that score.
        chosen: The answer that the row chose for each item, for tasks that score.
        mass: The probability of the right answers among all answers of an item, for tasks that score.
        isolates: What a control shows by itself: "penalty", "length", or what replaces the contrast (`Recipe.premature`).
    """

    name: str
    description: str
    role: Role
    estimates: dict[str, Estimate]
    comparisons: dict[str, Comparison]
    layers: dict[int, float] = field(default_factory=dict)
    implausible: float | None = None
    items: dict[str, list[float]] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    unfinished: list[bool] = field(default_factory=list)
    chosen: list[str] = field(default_factory=list)
    mass: list[float] = field(default_factory=list)
    isolates: str | None = None

    @property
    def control(self) -> bool:
        """Whether it is a control, which explains the others and is not proposed for use."""
        return self.role.control

    def to_json(self) -> dict[str, Any]:
        """All fields for JSON; the role only as whether it is a control."""
        fields = asdict(self) | {"control": self.control}
        del fields["role"]
        return fields


def row_result(
    way: Way,
    values: Mapping[str, list[float]],
    plain: Mapping[str, list[float]],
    metrics: Sequence[Metric],
    labels: Labels | None,
    seed: int,
    *,
    cut: bool = False,
) -> WayResult:
    """A row's means and its comparison with vanilla. Where items come in groups, intervals draw whole groups.

    With `cut`, a row may have ended early: it is compared with vanilla on the items that it has.
    """
    estimates, comparisons = {}, {}
    for metric in metrics:
        mine, base = values[metric.name], plain[metric.name]
        base = base[: len(mine)] if cut else base
        found = estimate(mine, seed=seed)
        if labels is not None:
            low, high = interval(np.asarray(mine), labels[: len(mine)], seed=seed)
            found = replace(found, low=low, high=high)
        estimates[metric.name] = found
        if way.role is not Role.VANILLA:
            comparisons[metric.name] = compared(base, mine, metric.binary, labels, seed)
    return WayResult(
        name=way.name,
        description=way.description,
        role=way.role,
        estimates=estimates,
        comparisons=comparisons,
        items={metric.name: list(values[metric.name]) for metric in metrics},
        isolates=_isolates(way),
    )


def compared(base: Sequence[float], mine: Sequence[float], binary: bool, labels: Labels | None, seed: int) -> Comparison:
    """`compare`; where items come in groups, its interval draws whole groups, and McNemar's test does not apply."""
    found = compare(base, mine, binary=binary, seed=seed)
    if labels is None:
        return found
    low, high = interval(np.asarray(mine) - np.asarray(base), labels[: len(mine)], seed=seed)
    return replace(found, low=low, high=high, p_value=None)


def _isolates(way: Way) -> str | None:
    """What a control shows by itself, if that is one thing."""
    if way.role in (Role.LENGTH, Role.PENALTY):
        return str(way.role.value)
    if not way.control or way.recipe is None or way.recipe.premature == PREMATURE[0]:
        return None
    return way.recipe.premature
