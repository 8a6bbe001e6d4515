"""What the answers of a row are like, counted: length, empty answers, refusals, answers that lack the task's form."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from dola.tasks.answers import ANSWERED, refuses

if TYPE_CHECKING:
    from dola.evidence.report import Report
    from dola.evidence.row_result import WayResult


@dataclass(frozen=True)
class Counts:
    """Counts over the items of a row.

    Attributes:
        words: Mean number of words of an answer.
        changed: Items with another answer than vanilla's.
        better, worse: Items on which the first metric is better or worse than vanilla's.
        longer_better, longer_worse: Those of them on which the answer has more words than vanilla's.
        empty: Empty answers; None for tasks that score given answers, like the next five.
        refused: Answers that decline to answer, by the usual phrases of English.
        formless: Other answers in which the task finds no answer in the form that it asks for.
        unanswered_better: Items that are better, where vanilla's answer is empty, declines or has no form.
        unanswered_worse: Items that are worse, where the row's answer does.
        unfinished: Answers that the length limit cut; None where that is not known.
    """

    words: float
    changed: int
    better: int
    worse: int
    longer_better: int
    longer_worse: int
    empty: int | None = None
    refused: int | None = None
    formless: int | None = None
    unanswered_better: int | None = None
    unanswered_worse: int | None = None
    unfinished: int | None = None


def count_answers(report: Report, way: WayResult, plain: WayResult) -> Counts | None:
    """The counts of a row beside vanilla's answers to the same items; None where answers are not known."""
    answers, before = report.answers(way), report.answers(plain)
    if not answers or not before or not report.metrics:
        return None
    better, worse = changed_for(report, way, plain)
    longer = [len(text.split()) > len(other.split()) for text, other in zip(answers, before, strict=False)]
    found = Counts(
        words=fmean(len(text.split()) for text in answers),
        changed=sum(text != other for text, other in zip(answers, before, strict=False)),
        better=len(better),
        worse=len(worse),
        longer_better=sum(longer[i] for i in better),
        longer_worse=sum(longer[i] for i in worse),
    )
    return _with_form(found, report, way, plain, better, worse) if way.texts else found


def changed_for(report: Report, way: WayResult, plain: WayResult) -> tuple[list[int], list[int]]:
    """The items whose first metric is better than vanilla's, and those whose is worse."""
    first = report.metrics[0]
    sign = 1 if report.higher_is_better else -1
    apart = [sign * (mine - other) for mine, other in zip(way.items[first], plain.items[first], strict=False)]
    return [i for i, each in enumerate(apart) if each > 0], [i for i, each in enumerate(apart) if each < 0]


def _with_form(found: Counts, report: Report, way: WayResult, plain: WayResult, better: list[int], worse: list[int]) -> Counts:
    kinds, before = _kinds(report, way), _kinds(report, plain)
    return Counts(
        **{name: getattr(found, name) for name in ("words", "changed", "better", "worse", "longer_better", "longer_worse")},
        empty=kinds.count("empty"),
        refused=kinds.count("refused"),
        formless=kinds.count("formless"),
        unanswered_better=sum(before[i] != "" for i in better),
        unanswered_worse=sum(kinds[i] != "" for i in worse),
        unfinished=sum(way.unfinished) if way.unfinished else None,
    )


def _kinds(report: Report, way: WayResult) -> list[str]:
    """What is amiss with each answer, if anything: "empty", "refused" or "formless"."""
    answered = way.items.get(ANSWERED.name)
    found = []
    for i, text in enumerate(report.answers(way)):
        if not text.strip():
            found.append("empty")
        elif refuses(text):
            found.append("refused")
        else:
            found.append("formless" if answered is not None and not answered[i] else "")
    return found
