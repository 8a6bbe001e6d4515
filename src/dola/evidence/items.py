"""The items of a report as people read them: the question, and the right and wrong answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from dola.tasks.items import ChoiceItem, QuestionItem


@dataclass(frozen=True)
class ItemText:
    """One item.

    Attributes:
        question: What is asked, without what all items have in common: instructions, demonstrations, the form.
        right: The right answers, the best one first; empty where no text is known to be right.
        wrong: The wrong answers that are scored beside them.
        group: The group that the data name, if any.
    """

    question: str
    right: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    group: str | None = None


def item_texts(items: Sequence[ChoiceItem | QuestionItem]) -> list[ItemText]:
    """The texts of some items."""
    contexts = [item.context for item in items if isinstance(item, ChoiceItem)]
    before, after = _shared(contexts)
    return [_choice(item, before, after) if isinstance(item, ChoiceItem) else _question(item) for item in items]


def _choice(item: ChoiceItem, before: int, after: int) -> ItemText:
    right = [text.strip() for text, correct in zip(item.continuations, item.correct, strict=True) if correct]
    if item.best is not None:
        best = item.continuations[item.best].strip()
        right = [best, *(text for text in right if text != best)]
    wrong = [text.strip() for text, correct in zip(item.continuations, item.correct, strict=True) if not correct]
    return ItemText(item.context[before : len(item.context) - after].strip(), right, wrong, item.group)


def _question(item: QuestionItem) -> ItemText:
    right = list(item.answers) or ([] if item.gold is None else [item.gold])
    return ItemText(item.question.strip(), right, [], item.group)


def _shared(contexts: Sequence[str]) -> tuple[int, int]:
    """Lengths of what all contexts begin and end with, in whole lines."""
    if len(set(contexts)) < 2:
        return 0, 0
    begin, end = _common_start(contexts), _common_start([context[::-1] for context in contexts])[::-1]
    return begin.rfind("\n") + 1, len(end) - end.find("\n") if "\n" in end else 0


def _common_start(texts: Sequence[str]) -> str:
    """What all texts begin with: as much as the first and the last in order share."""
    first, last = min(texts), max(texts)
    return first[: next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))]
