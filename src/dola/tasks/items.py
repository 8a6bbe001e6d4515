"""The items of tasks: those whose continuations are scored, and those that are answered with generated text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dola.errors import InputError


@dataclass(frozen=True)
class ChoiceItem:
    """A context and its possible continuations, some of them right. The continuations are scored; nothing is generated.

    Attributes:
        id: Its name within the task, the same in every run.
        context: The text that the model reads first, including demonstrations.
        continuations: The texts that may follow, joined to the context directly: a separating space is part of them.
        correct: Whether each continuation is right. At least one is, and at least one is not.
        best: Index of the best right continuation, if the task defines one.
        group: Name of the group of items that it belongs to, if the data give one: items of a group are not independent.
    """

    id: str
    context: str
    continuations: tuple[str, ...]
    correct: tuple[bool, ...]
    best: int | None = None
    group: str | None = None


@dataclass(frozen=True)
class QuestionItem:
    """A question that is answered with generated text.

    Attributes:
        id: Its name within the task, the same in every run.
        prompt: The text that the model reads: demonstrations, then the question.
        question: The question alone, for judges and answer files.
        gold: The right answer, in the form that the task compares with; None if the task does not define one.
        answers: All right answers, for tasks that compare texts.
        message: The text for a chat model if it differs from the prompt: a chat template has its own place for the answer.
        group: See ChoiceItem.
    """

    id: str
    prompt: str
    question: str
    gold: str | None = None
    answers: tuple[str, ...] = ()
    message: str | None = None
    group: str | None = None


def check_scores(item: ChoiceItem, scores: Sequence[float], tokens: Sequence[int]) -> None:
    """Raise InputError for scores that metrics do not define.

    Args:
        item: The item that was scored.
        scores: Sum of the log-likelihoods of each continuation's tokens, in nats. Unnormalized scores may be positive.
        tokens: Number of tokens of each continuation.
    """
    if not len(scores) == len(tokens) == len(item.continuations):
        raise InputError(
            f"Item {item.id}: {len(item.continuations)} continuations, {len(scores)} scores, {len(tokens)} token counts.",
            hint="give one score and one token count for each continuation, in their order",
        )
    for index, (score, count) in enumerate(zip(scores, tokens, strict=True)):
        if not math.isfinite(score) or count < 1:
            raise InputError(
                f"Item {item.id}, continuation {index}: score {score} of {count} tokens; must be finite, of 1 or more.",
                hint="look at the model's logits: overflow causes NaN and infinity; an empty continuation has no token",
            )


def per_token(scores: Sequence[float], tokens: Sequence[int]) -> list[float]:
    """The mean of each continuation's tokens, from the sum and the count."""
    return [score / count for score, count in zip(scores, tokens, strict=True)]


def share_of_right(item: ChoiceItem) -> float:
    """The share of continuations that are right: accuracy of a random choice, and MC2 if all score the same."""
    return item.correct.count(True) / len(item.correct)
