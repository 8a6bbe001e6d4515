"""What an evaluation found: each way's metrics with intervals, its difference from vanilla, and what may be said of it."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import fmean
from typing import Any

import torch
import transformers

import dola
from dola.evidence.ways import LENGTH, VANILLA, Way
from dola.statistics import Comparison, Estimate, compare, describe, estimate
from dola.tasks import Task
from dola.tasks.data import Origin


@dataclass(frozen=True)
class WayResult:
    """One way on the task.

    Attributes:
        name, description, control: As of the Way.
        estimates: By metric: the mean over items with its 95% interval.
        comparisons: By metric: against vanilla on the same items; empty for vanilla.
        layers: Share of tokens at which each premature layer was contrasted.
        implausible: Mean number of tokens of a continuation outside the plausible set; None where nothing was counted.
        items: By metric: the value of each item, in the order of `Report.item_ids`.
    """

    name: str
    description: str
    control: bool
    estimates: dict[str, Estimate]
    comparisons: dict[str, Comparison]
    layers: dict[int, float] = field(default_factory=dict)
    implausible: float | None = None
    items: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """An evaluation of one model on one task.

    Attributes:
        task: Its name.
        model: As it was given.
        dtype: Of the weights.
        origins: What the items were read from, with SHA-256.
        item_ids: Of the items, in the order of all lists of values.
        total: How many items the task has; fewer were taken where there was a limit.
        seed: Of the choice of items, folds, random layers and bootstrap.
        metrics: Their names, the first one decides.
        chance: By metric: what it is without any knowledge; None where that means nothing.
        ways: Vanilla first.
        versions: Of what computed it.
        notes: What a reader must know: truncated contexts, data that are not the published ones.
        texts: What was generated, by way, for tasks that generate.
    """

    task: str
    model: str
    dtype: str
    origins: list[Origin]
    item_ids: list[str]
    total: int
    seed: int
    metrics: list[str]
    chance: dict[str, float | None]
    ways: list[WayResult]
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)

    @property
    def sentences(self) -> list[str]:
        """Plain words on every way that is no control: more than noise or not, and whether length explains it."""
        found = []
        for way in self.ways:
            if not way.control and way.name != VANILLA:
                found += [describe(way.comparisons[metric], metric, method=way.name) for metric in self.metrics[:1]]
                found += self._length_explains(way)
        return found

    def way(self, name: str) -> WayResult | None:
        """The result of that name, if there is one."""
        return next((way for way in self.ways if way.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Everything, per-item values included."""
        return asdict(self) | {"sentences": self.sentences}

    def _length_explains(self, way: WayResult) -> list[str]:
        """Where a way gains: whether a scorer that only counts tokens does as well."""
        length = self.way(LENGTH)
        if length is None:
            return []
        found = []
        for metric in self.metrics:
            gain = way.comparisons[metric]
            if gain.significant and gain.difference > 0:
                against = compare(length.items[metric], way.items[metric], binary=False, seed=self.seed)
                level = f"{100 * against.baseline:.1f} by counting tokens, {100 * against.method:.1f} by {way.name}"
                if against.low <= 0:
                    found.append(f"{metric}: the number of tokens explains the gain of {way.name}: {level}.")
                else:
                    found.append(f"{metric}: the number of tokens alone does not reach {way.name}: {level}.")
        return found


def make_report(
    task: Task,
    model: Any,
    name: str,
    ways: Sequence[Way],
    values: Mapping[str, Mapping[str, list[float]]],
    *,
    origins: Sequence[Origin],
    items: Sequence[Any],
    total: int,
    seed: int,
    layers: Mapping[str, dict[int, float]] | None = None,
    implausible: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    texts: Mapping[str, list[str]] | None = None,
) -> Report:
    """A report from the metric values of each way: way -> metric -> value of each item."""
    metrics = [metric.name for metric in task.metrics]
    binary = {metric.name: metric.binary for metric in task.metrics}
    plain = values[VANILLA]
    results = [
        WayResult(
            name=way.name,
            description=way.description,
            control=way.control,
            estimates={metric: estimate(values[way.name][metric], seed=seed) for metric in metrics},
            comparisons={
                metric: compare(plain[metric], values[way.name][metric], binary=binary[metric], seed=seed)
                for metric in (metrics if way.name != VANILLA else ())
            },
            layers=dict((layers or {}).get(way.name, {})),
            implausible=(implausible or {}).get(way.name),
            items={metric: list(values[way.name][metric]) for metric in metrics},
        )
        for way in ways
    ]
    unknown = [
        f"{origin.name} is not the file that published numbers were made with (SHA-256 {origin.sha256})."
        for origin in origins
        if not origin.known
    ]
    return Report(
        task=task.name,
        model=name,
        dtype=str(model.dtype).removeprefix("torch."),
        origins=list(origins),
        item_ids=[item.id for item in items],
        total=total,
        seed=seed,
        metrics=metrics,
        chance={metric.name: None if metric.chance is None else fmean(map(metric.chance, items)) for metric in task.metrics},
        ways=results,
        versions={
            "dola": dola.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        notes=[*unknown, *notes],
        texts=dict(texts or {}),
    )


def markdown(report: Report) -> str:
    """The report as a page of Markdown: one table, then the sentences."""
    head = ["", *(f"{metric} (95% interval)" for metric in report.metrics), f"{report.metrics[0]} against vanilla", "McNemar p"]
    rows = [head, ["---"] * len(head)]
    for way in report.ways:
        cells = [_cell(way.estimates[metric]) for metric in report.metrics]
        first = way.comparisons.get(report.metrics[0])
        rows.append([f"*{way.name}*" if way.control else way.name, *cells, *_against(first)])
    if any(value is not None for value in report.chance.values()):
        chance = [report.chance[metric] for metric in report.metrics]
        rows.append(["*chance*", *("" if value is None else f"{100 * value:.1f}" for value in chance), "", ""])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    said = [f"- {sentence}" for sentence in [*report.sentences, *report.notes]]
    return "\n".join([f"### {report.task}, {report.model}, {report.dtype}", "", summary(report), "", *lines, "", *said, ""])


def summary(report: Report) -> str:
    """What was evaluated, in one line."""
    part = "all" if len(report.item_ids) == report.total else f"{len(report.item_ids)} of"
    data = ", ".join(f"{origin.name} (SHA-256 {origin.sha256[:12]})" for origin in report.origins)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return f"{part} {report.total} items of {data}; seed {report.seed}; {versions}. Controls in italics."


def _cell(found: Estimate) -> str:
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _against(found: Comparison | None) -> list[str]:
    if found is None:
        return ["", ""]
    p = "" if found.p_value is None else f"{found.p_value:.3f}"
    return [f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})", p]
