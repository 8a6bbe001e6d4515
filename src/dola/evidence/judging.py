"""The metrics of generated texts, where there are judges with theirs: answers of judges are kept, so that a run can resume."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dola.errors import JudgeError, UsageError
from dola.evidence.course import Block
from dola.evidence.generation import Texts
from dola.scoring.results_file import ResultsFile
from dola.tasks import GenerationTask
from dola.tasks.answers import EXACT
from dola.tasks.judge import Judge
from dola.tasks.meaning import JUDGED, PROMPT, meaning_prompt, verdict_of
from dola.tasks.prompting import before_stop

ByWay = dict[str, dict[str, list[float]]]
"""Way -> metric -> value of each item."""


@dataclass(frozen=True)
class Judges:
    """The judges of open-ended answers.

    Attributes:
        truth: Judges whether answers are true, or mean the same as a right one.
        info: Judges whether answers are informative; not asked about questions with known answers.
        names: Names of the judges, for the report.
    """

    truth: Judge
    info: Judge
    names: tuple[str, ...]

    @classmethod
    def of_meaning(cls, judge: Judge, name: str) -> Judges:
        """One judge, of whether answers mean the same as right ones."""
        return cls(judge, judge, (name,))


@dataclass
class Tally:
    """What a judge of meanings said of different texts.

    Attributes:
        texts: Number of texts that it read.
        unread: How many of its replies were neither yes nor no.
        right_not_exact: Texts that it calls right and that are not word for word a right answer.
        exact_not_right: Texts that are word for word a right answer, and that it calls wrong.
    """

    texts: int = 0
    unread: int = 0
    right_not_exact: int = 0
    exact_not_right: int = 0

    def add(self, verdict: bool | None, exact: bool) -> None:
        """Count one text."""
        self.texts += 1
        self.unread += verdict is None
        self.right_not_exact += bool(verdict) and not exact
        self.exact_not_right += verdict is False and exact

    def sentences(self, name: str) -> list[str]:
        """What readers of a report must know of the judge."""
        if not self.texts:
            return []
        apart = self.right_not_exact + self.exact_not_right
        agreeing = self.texts - self.unread - apart
        said = [
            f"The judge {name} read {self.texts:,} different answers, each once, and agrees with exact match on "
            f"{100 * agreeing / self.texts:.1f}% of them; it calls {self.right_not_exact:,} right that are not word for word "
            f"a right answer, and {self.exact_not_right:,} wrong that are."
        ]
        if self.unread == self.texts:
            return [
                f"No reply of the judge {name} was yes or no: all answers count as wrong, and judged says nothing about them."
            ]
        if self.unread:
            said.append(
                f"{self.unread:,} of the judge's replies were neither yes nor no. These answers count as wrong, in all rows."
            )
        return said


def measured(
    block: Block,
    task: GenerationTask,
    texts: Texts,
    judges: Judges | None,
    *,
    results: str | Path | None,
    progress: bool,
    tally: Tally | None = None,
) -> ByWay:
    """The metrics of a block's texts. `tally` gets what a judge of meanings said."""
    if task.measure is None:
        return {name: {} for name in texts.by_way}
    if not task.compared:
        return _measured(block, task, texts, judges, results=results, progress=progress)
    if judges is None:
        raise UsageError(f"{task.name} needs a judge of answers.", hint="--judge MODEL, or --judge-url URL --judge NAME")
    found = _measured(block, task, texts, None, results=None, progress=False)
    said = _meanings(block, task, texts.by_way.values(), judges, results=results, progress=progress, tally=tally or Tally())
    for name, of_way in texts.by_way.items():
        found[name][JUDGED.name] = [float(said[i, _answer(task, text)]) for i, text in enumerate(of_way)]
    return found


def _measured(
    block: Block,
    task: GenerationTask,
    texts: Texts,
    judges: Judges | None,
    *,
    results: str | Path | None,
    progress: bool,
) -> ByWay:
    """What `task.measure` says of each text."""
    assert task.measure is not None
    jobs = [(name, i) for name in texts.by_way for i in range(len(block.items))]
    names = [metric.name for metric in task.metrics if metric != JUDGED]

    def run() -> dict[str, str]:
        return {**block.facts, "texts": _digest(texts.by_way), "judges": repr(judges and judges.names)}

    def is_result(number: int, found: Any) -> bool:
        return (
            0 <= number < len(jobs)
            and isinstance(found, dict)
            and all(isinstance(found.get(name), (int, float)) for name in names)
        )

    with ResultsFile.open(_beside(results) if judges is not None else None, run, is_result) as kept:
        for number, (name, i) in enumerate(
            tqdm(jobs, unit="answer", disable=None if progress and judges is not None else True)
        ):
            if number not in kept.items:
                by = () if judges is None else (judges.truth, judges.info)
                kept.add(number, task.measure(block.items[i], texts.by_way[name][i], *by))
        found = {job: kept.items[number] for number, job in enumerate(jobs)}
    return {
        name: {metric: [found[name, i][metric] for i in range(len(block.items))] for metric in names} for name in texts.by_way
    }


def _meanings(
    block: Block,
    task: GenerationTask,
    by_way: Iterable[Sequence[str]],
    judges: Judges,
    *,
    results: str | Path | None,
    progress: bool,
    tally: Tally,
) -> dict[tuple[int, str], bool]:
    """Whether each answer to each item means a right one: item, answer -> verdict.

    The answers of an item are judged in alphabetical order, and equal ones once, so that nothing says which row wrote them.
    An empty answer is wrong without a judge.
    """
    answers = [{_answer(task, of_way[i]) for of_way in by_way} for i in range(len(block.items))]
    jobs = [(i, answer) for i, of_item in enumerate(answers) for answer in sorted(of_item - {""})]

    def run() -> dict[str, str]:
        asked = hashlib.sha256(repr((PROMPT, jobs)).encode()).hexdigest()
        return {**block.facts, "judge": judges.names[0], "answers": asked}

    def is_result(number: int, found: Any) -> bool:
        return 0 <= number < len(jobs) and isinstance(found, str)

    said = {(i, ""): False for i in range(len(block.items))}
    with ResultsFile.open(_beside(results), run, is_result) as kept:
        for number, (i, answer) in enumerate(tqdm(jobs, unit="answer", disable=None if progress else True)):
            item = block.items[i]
            if number not in kept.items:
                prompt = meaning_prompt(item.question, item.answers, answer)
                kept.add(number, _reply(judges.truth, prompt, len(kept.items), len(jobs), results))
            verdict = verdict_of(kept.items[number])
            said[i, answer] = verdict is True
            assert task.measure is not None
            tally.add(verdict, bool(task.measure(item, answer)[EXACT.name]))
    return said


def _reply(judge: Judge, prompt: str, done: int, jobs: int, results: str | Path | None) -> str:
    try:
        return judge.reply(prompt)
    except JudgeError as error:
        if results is None:
            kept, hint = "and nothing is kept without --results", f"{error.hint}; add --results FILE to keep what is done"
        else:
            kept, hint = f"which {_beside(results)} keeps", f"{error.hint}; then re-run the same command to continue"
        raise JudgeError(f"{error.message} It had judged {done:,} of {jobs:,} answers, {kept}.", hint=hint) from None


def _answer(task: GenerationTask, text: str) -> str:
    """The part of a text that is judged."""
    return before_stop(text, task.generation.stop)


def _beside(results: str | Path | None) -> str | None:
    """The file of judges' answers, beside that of texts."""
    return None if results is None else f"{results}.judged"


def _digest(texts: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of texts by way."""
    return hashlib.sha256(repr({name: list(of_way) for name, of_way in texts.items()}).encode()).hexdigest()
