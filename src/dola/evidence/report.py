"""The report of an evaluation: the results of all rows, the verdicts on them, and what explains them."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from statistics import fmean
from typing import Any

import numpy as np
import torch
import transformers

import dola
from dola.evidence.answer_counts import Counts, count_answers
from dola.evidence.changed import Changed, changed_by
from dola.evidence.details import Section, details
from dola.evidence.figures import difference
from dola.evidence.finding import SMALLEST, Finding, headline
from dola.evidence.generation import Texts
from dola.evidence.item_traces import AnswerTrace
from dola.evidence.items import ItemText, item_texts
from dola.evidence.paired import Labels
from dola.evidence.row_answers import Chosen
from dola.evidence.row_result import WayResult, compared, row_result
from dola.evidence.sample import Sample, groups_of
from dola.evidence.statistics import Comparison
from dola.evidence.subgroups import GroupFinding, by_group
from dola.evidence.verdict import judge
from dola.evidence.ways import Role, Way
from dola.tasks.data import Origin
from dola.tasks.prompting import before_stop
from dola.text.token_text import UNFINISHED


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
        items: The texts of the items, in the order of `item_ids`.
        descriptions: One line on each metric.
        looks: Number of items before each planned look of a sequential run; empty where all items were judged once. A row that
            was decided early has the values of the first items alone.
        traces: How the tokens of some answers were chosen, where that was asked for: vanilla's, then the row's.
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
    items: list[ItemText] = field(default_factory=list)
    descriptions: dict[str, str] = field(default_factory=dict)
    looks: list[int] = field(default_factory=list)
    traces: list[AnswerTrace] = field(default_factory=list)

    @cached_property
    def findings(self) -> dict[str, Finding]:
        """The verdict on each row that is proposed for use, on the first metric: one family (`verdict.judge`)."""
        vanilla = self.with_role(Role.VANILLA)
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
        if not self.findings:
            return ""
        only = next(iter(self.findings)) if len(self.findings) == 1 else None
        return headline(self.findings, self.metrics[0]) + ("" if only is None else self._beside_penalty(only))

    def _beside_penalty(self, name: str) -> str:
        if (control := self.with_role(Role.PENALTY)) is None:
            return ""
        way = self.named(name)
        found = difference(self.against(control, way, self.metrics[0]))
        return f' With the same penalty on both sides (against "{control.name}"): {found}.'

    @property
    def verdicts(self) -> list[str]:
        """The verdict on each row that is proposed for use, and its difference from vanilla with the same penalty."""
        return [each.sentence(name) + self._beside_penalty(name) for name, each in self.findings.items()]

    @cached_property
    def details(self) -> list[Section]:
        """Everything below the table: how verdicts were made, reasons, items whose answers changed, what was run."""
        return details(self)

    @property
    def sentences(self) -> list[str]:
        """The verdicts, then all sentences of the details."""
        return [*self.verdicts, *(line for section in self.details for line in section.lines)]

    @cached_property
    def counts(self) -> dict[str, Counts]:
        """What the answers of each row are like, where they are known."""
        plain = self.with_role(Role.VANILLA)
        found = {} if plain is None else {way.name: count_answers(self, way, plain) for way in self.ways}
        return {name: each for name, each in found.items() if each is not None}

    @cached_property
    def changed(self) -> dict[str, Changed]:
        """The items that each judged row changed most."""
        return changed_by(self)

    @cached_property
    def by_group(self) -> list[GroupFinding]:
        """Each judged row on each group of items, where the data name groups."""
        return by_group(self)

    def against(self, base: WayResult, way: WayResult, metric: str) -> Comparison:
        """A row compared with another one than vanilla, on the items that both have: rows may stop early (`looks`)."""
        count = min(len(base.items[metric]), len(way.items[metric]))
        values = base.items[metric][:count], way.items[metric][:count]
        return compared(*values, all(value in (0, 1) for of in values for value in of), labels_of(self.groups), self.seed)

    def named(self, name: str) -> WayResult:
        """The result of a name that exists."""
        return next(way for way in self.ways if way.name == name)

    def short_verdict(self, way: WayResult) -> str:
        """The verdict on a row for a table's cell; empty for rows that are not judged."""
        return self.findings[way.name].verdict.value if way.name in self.findings else ""

    def answers(self, way: WayResult) -> list[str]:
        """What a row answers to each item: its text up to where the task cuts it, or the answer that it chose."""
        return [self._answer(way, item) for item in range(len(way.texts or way.chosen))]

    def _answer(self, way: WayResult, item: int) -> str:
        return before_stop(way.texts[item], self.settings.get("stop") or ()) if way.texts else way.chosen[item]

    def shown_answer(self, way: WayResult, item: int) -> str | None:
        """A row's answer to an item for people: one that the length limit cut is marked. None where it is not known."""
        if item >= len(way.texts or way.chosen):
            return None
        return f"{self._answer(way, item)} {UNFINISHED}" if way.unfinished and way.unfinished[item] else self._answer(way, item)

    def way(self, name: str) -> WayResult | None:
        """The result of that name, if there is one."""
        return next((way for way in self.ways if way.name == name), None)

    def with_role(self, role: Role) -> WayResult | None:
        """The first result of that role, if there is one."""
        return next((way for way in self.ways if way.role is role), None)

    def to_json(self) -> dict[str, Any]:
        """Everything, per-item values included."""
        found = {name: asdict(each) | {"verdict": each.verdict.value} for name, each in self.findings.items()}
        return asdict(replace(self, traces=[])) | {
            "traces": [each.to_json() for each in self.traces],
            "ways": [way.to_json() for way in self.ways],
            "verdict": self.verdict,
            "findings": found,
            "verdicts": self.verdicts,
            "sentences": self.sentences,
            "details": [asdict(section) for section in self.details],
            "counts": {name: asdict(each) for name, each in self.counts.items()},
            "by_group": [asdict(each) for each in self.by_group],
            "changed": {name: asdict(each) for name, each in self.changed.items()},
        }


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
    texts: Texts | None = None,
    chosen: Mapping[str, Chosen] | None = None,
    smallest: float = SMALLEST,
    higher_is_better: bool = True,
    looks: Sequence[int] = (),
) -> Report:
    """Make a report from the values of each item: way -> metric -> values."""
    task, seed = sample.task, sample.seed
    groups = groups_of(sample.items)
    labels = labels_of(groups)
    plain = next(values[way.name] for way in ways if way.role is Role.VANILLA)
    results = [
        replace(
            row_result(way, values[way.name], plain, task.metrics, labels, seed, cut=bool(looks)),
            layers=dict((layers or {}).get(way.name, {})),
            implausible=(implausible or {}).get(way.name),
            texts=list(texts.by_way.get(way.name, [])) if texts else [],
            unfinished=list(texts.unfinished.get(way.name, [])) if texts else [],
            chosen=chosen[way.name].texts if chosen else [],
            mass=chosen[way.name].mass if chosen else [],
        )
        for way in ways
    ]
    unknown = [
        f"{origin.name} is not the file that published figures are from: do not compare these results with those figures."
        for origin in sample.origins
        if not origin.known and task.published
    ]
    return Report(
        task=task.name,
        model=name,
        dtype=str(model.dtype).removeprefix("torch."),
        origins=list(sample.origins),
        item_ids=[item.id for item in sample.items],
        total=sample.total,
        seed=seed,
        settings=dict(settings),
        metrics=[metric.name for metric in task.metrics],
        chance={each.name: None if each.chance is None else fmean(map(each.chance, sample.items)) for each in task.metrics},
        ways=results,
        versions={
            "dola": dola.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        notes=[*unknown, *notes],
        groups=groups,
        smallest=smallest,
        higher_is_better=higher_is_better,
        looks=list(looks),
        items=item_texts(sample.items),
        descriptions={metric.name: metric.description for metric in task.metrics},
    )


def labels_of(groups: Sequence[str] | None) -> Labels | None:
    """Groups as integers from 0."""
    return None if groups is None else np.unique(np.array(groups), return_inverse=True)[1]
