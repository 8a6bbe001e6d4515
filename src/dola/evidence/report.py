"""The report of an evaluation: each way's metrics with intervals, its difference from vanilla, and its interpretation."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any

import torch
import transformers

import dola
from dola.evidence.sample import Sample, groups_of
from dola.evidence.statistics import Comparison, Estimate, compare, describe, estimate
from dola.evidence.verdict import SMALLEST, Finding, headline, judge
from dola.evidence.ways import Role, Way
from dola.tasks.data import Origin


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

    @property
    def control(self) -> bool:
        """Whether it is a control, which explains the others and is not proposed for use."""
        return self.role.control

    def to_json(self) -> dict[str, Any]:
        """All fields for JSON; the role only as whether it is a control."""
        fields = asdict(self) | {"control": self.control}
        del fields["role"]
        return fields


@dataclass(frozen=True)
class Report:
    """An evaluation of one model on one task.

    Attributes:
        task: Name of the task.
        model: Name of the model, as given.
        dtype: Dtype of the weights.
        origins: Sources of the items, with SHA-256.
        item_ids: Ids of the items, in the order of all lists of values.
        total: Number of items that the task has; a limit takes fewer.
        seed: Seed of the choice of items, folds, random layers, ties of the length control, sampling and bootstrap.
        settings: Settings of the DoLa rows (`dola`), and of generation.
        metrics: Names of the metrics; the first one decides.
        chance: The value without any knowledge, by metric; None if that is undefined.
        ways: The results of the ways, vanilla first.
        versions: Versions of the software that computed them.
        notes: What a reader must know: truncated contexts, data that differ from the published ones.
        files: Files that were written, for tasks whose answers another program judges.
        groups: The group of each item, if the data have groups.
        smallest: The difference in the first metric that matters.
        higher_is_better: Whether a higher value of the first metric is the better one.
        looks: Number of items before each planned look of a sequential run; empty where all items were judged once. A row that
            was decided early has the values of the first items alone.
    """

    task: str
    model: str
    dtype: str
    origins: list[Origin]
    item_ids: list[str]
    total: int
    seed: int
    settings: dict[str, Any]
    metrics: list[str]
    chance: dict[str, float | None]
    ways: list[WayResult]
    versions: dict[str, str]
    notes: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    groups: list[str] | None = None
    smallest: float = SMALLEST
    higher_is_better: bool = True
    looks: list[int] = field(default_factory=list)

    @cached_property
    def findings(self) -> dict[str, Finding]:
        """The verdict on each row that is proposed for use, on the first metric: one family (`verdict.judge`)."""
        vanilla = self._with_role(Role.VANILLA)
        rows = [way for way in self.ways if way.role.judged]
        if vanilla is None or not self.metrics or not rows:
            return {}
        first = self.metrics[0]
        values = {way.name: way.items[first] for way in rows}
        return judge(
            vanilla.items[first],
            values,
            groups=self.groups,
            smallest=self.smallest,
            higher_is_better=self.higher_is_better,
            looks=self.looks,
            seed=self.seed,
        )

    @property
    def verdict(self) -> str:
        """The answer in one sentence."""
        return headline(self.findings, self.metrics[0]) if self.findings else ""

    @property
    def sentences(self) -> list[str]:
        """The verdict on each row that is proposed for use, how verdicts were made, then the reasons.

        Metrics other than the first are mentioned, without a verdict, if their interval excludes 0.
        """
        found = [*(each.sentence(name) for name, each in self.findings.items()), *self._family()]
        for way in self.ways:
            if way.control or way.role is Role.VANILLA:
                continue
            for metric in self.metrics:
                if metric != self.metrics[0] and way.comparisons[metric].significant:
                    found.append(describe(way.comparisons[metric], metric, method=way.name))
                if metric == self.metrics[0] or way.comparisons[metric].significant:
                    found += self._length_explains(way, metric)
                if metric == self.metrics[0]:
                    found += self._against_penalty(way, metric)
        return found

    def _family(self) -> list[str]:
        """How the verdicts were made, and where an interval alone would say something else."""
        if not self.findings:
            return []
        count = len(self.findings)
        found = [
            f"Verdicts are on {self.metrics[0]}, which was named before the run. "
            + (f"{count} rows were judged together (Holm); " if count > 1 else "One row was judged; ")
            + "intervals are of each row by itself. Other metrics and controls get no verdict."
        ]
        found += self._looked()
        if apart := [name for name, each in self.findings.items() if each.disagrees]:
            rows = f"The interval of {apart[0]} says" if len(apart) == 1 else f"The intervals of {', '.join(apart)} say"
            found.append(f"{rows} something else than the verdict, which counts all {count} rows that were judged.")
        return found

    def _looked(self) -> list[str]:
        """How a sequential run went."""
        if not self.looks:
            return []
        *some, last = (f"{end:,}" for end in self.looks)
        planned = f"{', '.join(some)} and {last}" if some else last
        done = len(self.item_ids)
        ended = "all items ran" if done == self.looks[-1] else f"the run ended after {done:,}, when every row was decided"
        return [
            f"Sequential: items in an order drawn with seed {self.seed}, looks after {planned} items; {ended}. Rows stop when "
            "they are decided. Their figures and comparisons are over the items that they have, which the verdicts name.",
            "A row that stops early overstates its difference on average; its interval takes the number of items as fixed.",
        ]

    @property
    def layers_chosen(self) -> list[str]:
        """How often each candidate was contrasted, most frequent first, for all ways with a choice except controls."""
        found = []
        for way in self.ways:
            if not way.control and len(way.layers) > 1:
                often = sorted(way.layers.items(), key=lambda each: (-each[1], each[0]))
                shares = ", ".join(f"{layer} ({100 * share:.0f}%)" for layer, share in often)
                found.append(f"{way.name} contrasted layers {shares}.")
        return found

    def way(self, name: str) -> WayResult | None:
        """The result of that name, if there is one."""
        return next((way for way in self.ways if way.name == name), None)

    def to_json(self) -> dict[str, Any]:
        """Everything, per-item values included."""
        found = {name: asdict(each) | {"verdict": each.verdict.value} for name, each in self.findings.items()}
        return asdict(self) | {
            "ways": [way.to_json() for way in self.ways],
            "verdict": self.verdict,
            "findings": found,
            "sentences": self.sentences,
        }

    def _with_role(self, role: Role) -> WayResult | None:
        """The first result of that role, if there is one."""
        return next((way for way in self.ways if way.role is role), None)

    def _against_penalty(self, way: WayResult, metric: str) -> list[str]:
        """Also compare with vanilla at the way's repetition penalty: the rest of the difference is not due to the penalty."""
        if (control := self._with_role(Role.PENALTY)) is None:
            return []
        values = _shared(control, way, metric)
        against = compare(*values, binary=all(value in (0, 1) for of in values for value in of), seed=self.seed)
        return [describe(against, metric, method=way.name, baseline=control.name)]

    def _length_explains(self, way: WayResult, metric: str) -> list[str]:
        """If a way gains: whether a scorer that only counts tokens does as well."""
        length, gain = self._with_role(Role.LENGTH), way.comparisons[metric]
        if length is None or not gain.significant or gain.difference <= 0:
            return []
        against = compare(*_shared(length, way, metric), binary=False, seed=self.seed)
        level = f"{100 * against.baseline:.1f} by counting tokens, {100 * against.method:.1f} by {way.name}"
        if against.difference <= 0:
            return [f"{metric}: the number of tokens explains the gain of {way.name}: {level}."]
        if against.low > 0:
            return [f"{metric}: the number of tokens alone does not reach {way.name}: {level}."]
        return [f"{metric}: on these items the gain of {way.name} is indistinguishable from a length-only scorer's: {level}."]


def _shared(first: WayResult, second: WayResult, metric: str) -> tuple[list[float], list[float]]:
    """The values of the items that both have: a row of a sequential run may have ended early."""
    count = min(len(first.items[metric]), len(second.items[metric]))
    return first.items[metric][:count], second.items[metric][:count]


def make_report(
    sample: Sample,
    model: Any,
    name: str,
    ways: Sequence[Way],
    values: Mapping[str, Mapping[str, list[float]]],
    *,
    settings: Mapping[str, Any],
    layers: Mapping[str, dict[int, float]] | None = None,
    implausible: Mapping[str, float] | None = None,
    notes: Sequence[str] = (),
    texts: Mapping[str, list[str]] | None = None,
    smallest: float = SMALLEST,
    higher_is_better: bool = True,
    looks: Sequence[int] = (),
) -> Report:
    """Make a report from the values of each item: way -> metric -> values."""
    task, seed = sample.task, sample.seed
    metrics = [metric.name for metric in task.metrics]
    binary = {metric.name: metric.binary for metric in task.metrics}
    plain = next(values[way.name] for way in ways if way.role is Role.VANILLA)
    results = [
        WayResult(
            name=way.name,
            description=way.description,
            role=way.role,
            estimates={metric: estimate(values[way.name][metric], seed=seed) for metric in metrics},
            comparisons={
                metric: compare(
                    plain[metric][: len(values[way.name][metric])] if looks else plain[metric],
                    values[way.name][metric],
                    binary=binary[metric],
                    seed=seed,
                )
                for metric in (() if way.role is Role.VANILLA else metrics)
            },
            layers=dict((layers or {}).get(way.name, {})),
            implausible=(implausible or {}).get(way.name),
            items={metric: list(values[way.name][metric]) for metric in metrics},
            texts=list((texts or {}).get(way.name, [])),
        )
        for way in ways
    ]
    unknown = [
        f"{origin.name} differs from the file that published numbers were made with (SHA-256 {origin.sha256})."
        for origin in sample.origins
        if not origin.known and task.published
    ]
    chance = {
        metric.name: None if metric.chance is None else fmean(map(metric.chance, sample.items)) for metric in task.metrics
    }
    return Report(
        task=task.name,
        model=name,
        dtype=str(model.dtype).removeprefix("torch."),
        origins=list(sample.origins),
        item_ids=[item.id for item in sample.items],
        total=sample.total,
        seed=seed,
        settings=dict(settings),
        metrics=metrics,
        chance=chance,
        ways=results,
        versions={
            "dola": dola.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        notes=[*unknown, *notes],
        groups=groups_of(sample.items),
        smallest=smallest,
        higher_is_better=higher_is_better,
        looks=list(looks),
    )


def markdown(report: Report) -> str:
    """The report as Markdown: the verdict, one table, then the sentences. Statistically significant differences are bold."""
    answer = [f"**{report.verdict}**", ""] if report.verdict else []
    lines = [f"### {report.task}, {report.model}, {report.dtype}", "", *answer, f"{summary(report)} Controls in italics.", ""]
    if report.metrics:
        lines += ["| " + " | ".join(row) + " |" for row in _rows(report)] + [""]
    said = [
        f"- {line}"
        for line in [*report.sentences, *report.layers_chosen, *report.notes, *(f"Written: {path}" for path in report.files)]
    ]
    return "\n".join([*lines, *said, ""])


def _rows(report: Report) -> list[list[str]]:
    first = report.metrics[0]
    head = ["", *(f"{metric} (95% interval)" for metric in report.metrics), f"{first} against vanilla", "McNemar p"]
    rows = [head, ["---"] * len(head)]
    for way in report.ways:
        found = way.comparisons.get(first)
        against = "" if found is None else difference(found)
        if found is not None and found.significant:
            against = f"**{against}**"
        p = "" if found is None or found.p_value is None else f"{found.p_value:.3f}"
        name = f"*{way.name}*" if way.control else way.name
        rows.append([name, *(cell(way.estimates[metric]) for metric in report.metrics), against, p])
    if any(value is not None for value in report.chance.values()):
        chance = [report.chance[metric] for metric in report.metrics]
        rows.append(["*chance*", *("" if value is None else f"{100 * value:.1f}" for value in chance), "", ""])
    return rows


def summary(report: Report) -> str:
    """One line on what was evaluated."""
    part = f"All {report.total}" if len(report.item_ids) == report.total else f"{len(report.item_ids)} of {report.total}"
    data = ", ".join(f"{origin.name} (SHA-256 {origin.sha256[:12]})" for origin in report.origins)
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return f"{part} items of {data}; seed {report.seed}; {versions}."


def cell(found: Estimate) -> str:
    """A mean with its interval, in percent."""
    return f"{100 * found.mean:.1f} ({100 * found.low:.1f} to {100 * found.high:.1f})"


def difference(found: Comparison) -> str:
    """A difference from vanilla with its interval, in points."""
    return f"{100 * found.difference:+.1f} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"
