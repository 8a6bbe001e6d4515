"""The items whose answers a row changed most, for the better and for the worse, side by side with vanilla's."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from dola.evidence.finding import Verdict
from dola.evidence.ways import Role

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.row_result import WayResult

MOST = 10
MOVED = 0.1
"""Where an answer is as right or wrong as before, its item is listed if the right answers' probability moved so far."""


@dataclass(frozen=True)
class Change:
    """One item under vanilla and under a row.

    Attributes:
        id: Id of the item.
        question: What is asked.
        right: The right answers.
        before: Vanilla's answer; one that the length limit cut ends with "[...]".
        after: The row's answer, likewise.
        values: The first metric under vanilla and under the row.
        mass: Probability of the right answers under both; None for tasks that generate.
    """

    id: str
    question: str
    right: list[str]
    before: str
    after: str
    values: tuple[float, float]
    mass: tuple[float, float] | None = None


@dataclass(frozen=True)
class Changed:
    """The items that a row changed most, at most `MOST` of each kind, the largest change first."""

    better: list[Change]
    worse: list[Change]


def shortened(text: str, most: int = 120) -> str:
    """A text on one line, cut in its middle if it is long."""
    line = " ".join(text.split()) or "(empty)"
    return line if len(line) <= most else f"{line[: most * 2 // 3]} ... {line[-most // 3 + 5 :]}"


def telling_row(report: Report, among: Collection[str] | None = None) -> str | None:
    """The row whose changes say most: the best if one is better, else the one that changed most answers.

    Args:
        report: The report.
        among: The rows to choose from; all by default.
    """
    found = {name: each for name, each in report.changed.items() if among is None or name in among}
    rows = {name: len(each.better) + len(each.worse) for name, each in found.items()}
    if not any(rows.values()):
        return None
    better = {name: report.findings[name].difference for name in rows if report.findings[name].verdict is Verdict.BETTER}
    return max(better, key=better.__getitem__) if better else max(rows, key=rows.__getitem__)


def changed_by(report: Report) -> dict[str, Changed]:
    """The changes of each judged row; empty where answers are not known."""
    plain = report.with_role(Role.VANILLA)
    if plain is None or not report.items or not report.answers(plain):
        return {}
    return {name: _changed(report, report.named(name), plain) for name in report.findings}


def most_changed(report: Report, row: str, count: int) -> list[int]:
    """The places of the items whose answers a row changed most, for the better or the worse, the largest change first."""
    way, plain = report.named(row), report.with_role(Role.VANILLA)
    assert plain is not None
    sizes = _sizes(report, way, plain)
    moved = [i for i, size in enumerate(sizes) if _counts(size) or _counts((-size[0], -size[1]))]
    return sorted(moved, key=lambda i: (-abs(sizes[i][0]), -abs(sizes[i][1]), i))[:count]


def _changed(report: Report, way: WayResult, plain: WayResult) -> Changed:
    """Order: the first metric, then the probability of the right answers or, in written answers, the other metrics."""
    sizes = _sizes(report, way, plain)
    places = range(len(sizes))
    better = sorted((i for i in places if _counts(sizes[i])), key=lambda i: (-sizes[i][0], -sizes[i][1], i))[:MOST]
    worse = sorted((i for i in places if _counts((-sizes[i][0], -sizes[i][1]))), key=lambda i: (*sizes[i], i))[:MOST]
    return Changed(*([_change(report, way, plain, i) for i in of] for of in (better, worse)))


def _counts(size: tuple[float, float]) -> bool:
    return size[0] > 0 or (size[0] == 0 and size[1] >= MOVED)


def _sizes(report: Report, way: WayResult, plain: WayResult) -> list[tuple[float, float]]:
    return [_size(report, way, plain, i) for i in range(len(way.items[report.metrics[0]]))]


def _size(report: Report, way: WayResult, plain: WayResult, i: int) -> tuple[float, float]:
    first, *others = report.metrics
    sign = 1 if report.higher_is_better else -1
    apart = sign * (way.items[first][i] - plain.items[first][i])
    if way.mass:
        return apart, way.mass[i] - plain.mass[i]
    tie = fmean([way.items[metric][i] - plain.items[metric][i] for metric in others[:2]]) if apart and others else 0.0
    return apart, tie


def _change(report: Report, way: WayResult, plain: WayResult, i: int) -> Change:
    first, item = report.metrics[0], report.items[i]
    return Change(
        id=report.item_ids[i],
        question=item.question,
        right=item.right,
        before=report.shown_answer(plain, i) or "",
        after=report.shown_answer(way, i) or "",
        values=(plain.items[first][i], way.items[first][i]),
        mass=(plain.mass[i], way.mass[i]) if way.mass else None,
    )
