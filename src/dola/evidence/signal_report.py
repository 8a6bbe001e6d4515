"""The report of `dola eval --signals`: does a number of the trace tell right from wrong better than the token's probability?"""

from __future__ import annotations

import platform
from collections import Counter
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers

import dola
from dola.evidence.auroc import FEWEST_OF_EACH, Separation, separate
from dola.evidence.sample import Sample, groups_of
from dola.evidence.signal_words import lines_of, sentence_of
from dola.evidence.signals import CONTROL, QUANTITIES, Quantity, signal_names
from dola.evidence.traced_answers import Answer, read_answers
from dola.methods.config import DoLaConfig
from dola.model.anatomy import Anatomy
from dola.tasks.data import Origin

HEAD = ("", "a wrong answer has", "AUROC (95% interval)", "difference from the control", "p (Holm)")


@dataclass(frozen=True)
class SignalReport:
    """How well signals separate right from wrong answers of one model on one task.

    Attributes:
        task: Name of the task.
        model: Name of the model, as given.
        dtype: Dtype of the weights.
        origins: Sources of the items, with SHA-256.
        item_ids: Ids of the items, in the order of `answers`.
        total: Number of items that the task has.
        seed: Seed of the choice of items and of the bootstrap.
        config: Settings with which layers were read.
        candidates: The candidate layers.
        right_means: What makes an answer right.
        answers: The answers with their signals.
        groups: The group of each item, if the data have groups.
        versions: Versions of the software that computed them.
        notes: What a reader must know.
    """

    task: str
    model: str
    dtype: str
    origins: list[Origin]
    item_ids: list[str]
    total: int
    seed: int
    config: dict[str, Any]
    candidates: tuple[int, ...]
    right_means: str
    answers: list[Answer]
    groups: list[str] | None
    versions: dict[str, str]
    notes: list[str]

    @property
    def right(self) -> int:
        """Number of right answers."""
        return sum(answer.right for answer in self.answers)

    @property
    def enough(self) -> bool:
        """Whether there are enough right and wrong answers to judge."""
        return min(self.right, len(self.answers) - self.right) >= FEWEST_OF_EACH

    @cached_property
    def _separated(self) -> tuple[str, dict[str, Separation]]:
        if self.right in (0, len(self.answers)):
            return "", {}
        named = signal_names()
        controls = {CONTROL.mean: CONTROL, CONTROL.worst: CONTROL}

        def values(name: str, quantity: Quantity) -> list[float]:
            sign = -1 if quantity.doubt_is_high else 1
            return [sign * answer.signals[name] for answer in self.answers]

        return separate(
            {name: values(name, each) for name, each in named.items()},
            {name: values(name, each) for name, each in controls.items()},
            [answer.right for answer in self.answers],
            groups=self.groups,
            seed=self.seed,
        )

    @property
    def control(self) -> str:
        """The control to beat: of the two, the one that separates better; "" without right or without wrong answers."""
        return self._separated[0]

    @property
    def separations(self) -> dict[str, Separation]:
        """Results by signal, the controls' last; empty without right or without wrong answers."""
        return self._separated[1]

    @property
    def winners(self) -> list[str]:
        """Signals that beat the control, on all answers and on those whose text no other one has; the best first."""
        kept = self if self.repeats == 0 else self.once
        beat = self.beating if kept is self else [name for name in self.beating if name in kept.beating]
        return sorted(beat, key=lambda name: -self.separations[name].auroc)

    @property
    def beating(self) -> list[str]:
        """Signals that beat the control on these answers, whether or not some of them have the same text."""
        return [name for name, found in self.separations.items() if found.beats] if self.enough else []

    @property
    def repeats(self) -> int:
        """Number of answers whose text another one has too: a stock phrase, for one, which a signal may recognize."""
        return sum(count for count in self.texts.values() if count > 1)

    @cached_property
    def once(self) -> SignalReport:
        """The same for the answers whose text no other one has."""
        kept = [i for i, answer in enumerate(self.answers) if self.texts[answer.text] == 1]
        return replace(
            self,
            answers=[self.answers[i] for i in kept],
            item_ids=[self.item_ids[i] for i in kept],
            groups=self.groups and [self.groups[i] for i in kept],
        )

    @cached_property
    def texts(self) -> Counter[str]:
        """How many answers have each text."""
        return Counter(answer.text for answer in self.answers)

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        return sentence_of(self)

    @property
    def lines(self) -> list[str]:
        """How the numbers were made, what else they show, and the notes."""
        return lines_of(self)

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Cells below HEAD, the controls' last."""
        found: list[tuple[str, ...]] = []
        for name, each in self.separations.items():
            quantity = signal_names().get(name, CONTROL)
            interval = f"{each.auroc:.2f} ({each.low:.2f} to {each.high:.2f})"
            against = f"{each.difference:+.2f} ({each.difference_low:+.2f} to {each.difference_high:+.2f})"
            last = ("", "") if name == self.control else (against, "" if quantity is CONTROL else f"{each.adjusted:.3f}")
            found.append((name, "more" if quantity.doubt_is_high else "less", interval, *last))
        return found

    @property
    def summary(self) -> str:
        """One line on what was run."""
        part = f"All {self.total}" if len(self.answers) == self.total else f"{len(self.answers)} of {self.total}"
        data = ", ".join(f"{origin.name} (SHA-256 {origin.sha256[:12]})" for origin in self.origins)
        return f"{part} items of {data}; seed {self.seed}; {', '.join(f'{name} {of}' for name, of in self.versions.items())}."

    def to_json(self) -> dict[str, Any]:
        """Everything, the signals of each answer included."""
        return asdict(self) | {
            "candidates": list(self.candidates),
            "sentence": self.sentence,
            "lines": self.lines,
            "control": self.control or None,
            "quantities": {each.name: each.description for each in (*QUANTITIES, CONTROL)},
            "signals": {name: asdict(each) | {"beats": name in self.winners} for name, each in self.separations.items()},
        }

    def markdown(self) -> str:
        """The report as Markdown: the answer, one table, then how it was made. Controls are in italics."""
        lines = [
            f"### Warning signs: {self.task}, {self.model}, {self.dtype}",
            "",
            f"**{self.sentence}**",
            "",
            self.summary,
            "",
        ]
        if self.rows:
            shown = [HEAD, ("---",) * len(HEAD), *((self._styled(name), *rest) for name, *rest in self.rows)]
            lines += ["| " + " | ".join(row) + " |" for row in shown] + [""]
        return "\n".join([*lines, *(f"- {line}" for line in self.lines), ""])

    def _styled(self, name: str) -> str:
        if name not in signal_names():
            return f"*{name}*"
        return f"**{name}**" if name in self.winners else name


def report_signals(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    *,
    name: str,
    config: DoLaConfig,
    results: str | Path | None = None,
    progress: bool = True,
) -> SignalReport:
    """Let plain decoding answer a sample's items, and report how well signals separate right from wrong answers.

    Args:
        name: Name of the model, for the report.
        model, tokenizer, sample, config, results, progress: See `read_answers`.

    Raises:
        UsageError, InputError, LayersError: See `read_answers`.
    """
    answers, notes = read_answers(model, tokenizer, sample, config, results=results, progress=progress)
    metric = sample.task.metrics[0]
    written = f"{metric.name}, {metric.description}; greedy decoding wrote them without a repetition penalty"
    return SignalReport(
        task=sample.task.name,
        model=name,
        dtype=str(model.dtype).removeprefix("torch."),
        origins=list(sample.origins),
        item_ids=[item.id for item in sample.items],
        total=sample.total,
        seed=sample.seed,
        config=config.as_dict(),
        candidates=Anatomy.of(model).candidates(config.layers),
        right_means=written if sample.task.generates else "the likeliest of the given answers, by sum, is a right one",
        answers=answers,
        groups=groups_of(sample.items),
        versions={
            "dola": dola.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        notes=notes,
    )
