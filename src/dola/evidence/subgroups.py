"""Which groups of items differ from vanilla, where the data name groups; corrected for all groups and rows that were tested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from dola.evidence.figures import p_words
from dola.evidence.paired import Floats, differences, interval, p_values
from dola.evidence.verdict import ALPHA, holm
from dola.evidence.ways import Role

if TYPE_CHECKING:
    from dola.evidence.report import Report

FEWEST = 10
"""Groups with fewer items are not tested: they could show hardly anything, and each test makes all others stricter."""


@dataclass(frozen=True)
class GroupFinding:
    """One row on the items of one group, beside vanilla.

    Attributes:
        row: Name of the row.
        group: Name of the group, as the data have it.
        items: Number of items.
        difference: Mean of (row - vanilla) in the first metric.
        p_value: Two-sided p-value of this test by itself, in which items are independent.
        adjusted: The same among all groups and rows that were tested, by Holm's procedure.
        low: Lower end of the difference's 95% interval, where `adjusted` is below 5%; else None.
        high: Upper end.
    """

    row: str
    group: str
    items: int
    difference: float
    p_value: float
    adjusted: float
    low: float | None = None
    high: float | None = None

    @property
    def differs(self) -> bool:
        """Whether the group differs, after the correction."""
        return self.adjusted <= ALPHA


def by_group(report: Report) -> list[GroupFinding]:
    """The findings of all judged rows on all groups that are large enough; empty without groups."""
    plain = report.with_role(Role.VANILLA)
    places = _places(report.items, FEWEST)
    if plain is None or not report.findings or len(places) < 2 or report.looks:
        return []
    first = report.metrics[0]
    rows = {name: report.named(name).items[first] for name in report.findings}
    apart = differences(plain.items[first], rows)
    binary = all(value in (0, 1) for values in (plain.items[first], *rows.values()) for value in values)
    found = []
    for group, of in places.items():
        tested = p_values(apart[of], binary=binary, seed=report.seed)
        for column, row in enumerate(rows):
            p_value = float(tested[column])
            found.append(GroupFinding(row, group, len(of), float(apart[of, column].mean()), p_value, 1.0))
    adjusted = holm(np.array([each.p_value for each in found]))
    columns = {row: column for column, row in enumerate(rows)}
    return [
        _with_interval(replace(each, adjusted=float(p)), apart[places[each.group], columns[each.row]], report.seed)
        for each, p in zip(found, adjusted, strict=True)
    ]


def group_lines(report: Report) -> list[str]:
    """Sentences on the groups that differ."""
    named = {item.group for item in report.items} - {None}
    if not named or not report.findings:
        return []
    tested = report.by_group
    if report.looks:
        return ["Groups are not compared in a sequential run, whose rows end at different items."]
    if not tested:
        return [f"{len(named)} groups; fewer than two have {FEWEST} items or more, so they were not compared."]
    groups, rows = len({each.group for each in tested}), len({each.row for each in tested})
    left = f" ({len(named) - groups} with fewer than {FEWEST} items were left out)" if groups < len(named) else ""
    lead = f"{groups} groups were compared{left}, {_times(groups, rows)} corrected together (Holm), "
    lead += "items of a group taken as independent"
    lines = [
        f'{each.group}: "{each.row}" {100 * each.difference:+.1f} points ({100 * each.low:+.1f} to {100 * each.high:+.1f}) on '
        f"{each.items} items, {p_words(each.adjusted)}."
        for each in tested
        if each.differs and each.low is not None and each.high is not None
    ]
    return [f"{lead}: {'these differ from vanilla' if lines else 'none differs from vanilla'}.", *lines]


def _times(groups: int, rows: int) -> str:
    return f"{groups * rows} tests ({groups} groups times {rows} rows)" if rows > 1 else f"{groups} tests"


def _places(items: Sequence[object], fewest: int) -> Mapping[str, list[int]]:
    """The items of each group that has enough of them."""
    found: dict[str, list[int]] = {}
    for i, item in enumerate(items):
        if (group := getattr(item, "group", None)) is not None:
            found.setdefault(group, []).append(i)
    return {group: of for group, of in found.items() if len(of) >= fewest}


def _with_interval(found: GroupFinding, apart: Floats, seed: int) -> GroupFinding:
    if not found.differs:
        return found
    low, high = interval(apart, seed=seed)
    return replace(found, low=low, high=high)
