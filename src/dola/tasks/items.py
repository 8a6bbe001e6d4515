"""What tasks are made of: items that are scored (continuations of a context) and items that are answered (prompts)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dola.errors import InputError


@dataclass(frozen=True)
class ChoiceItem:
    """A context and its possible continuations, of which some are right. The continuations are scored, nothing is generated.

    Attributes:
        id: Its name within the task; stays the same from run to run.
        context: What the model reads first, demonstrations included.
        continuations: What may follow, joined to the context without anything in between: a separating space is part of it.
        correct: For each continuation whether it is right. At least one is, and at least one is not.
        best: Index of the best of the right continuations, where the task has one.
        group: What it belongs to with other items, where the data say so: items of a group are not independent.
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
        id: Its name within the task; stays the same from run to run.
        prompt: What the model reads: demonstrations, then the question.
        question: The question alone, as judges and answer files want it.
        gold: The right answer, in the form that the task compares with; None where no answer is the right one.
        answers: All right answers, of tasks that compare texts.
        message: What a chat model is asked, where that is not the prompt: a template has a place for the answer of its own.
        group: As of ChoiceItem.
    """

    id: str
    prompt: str
    question: str
    gold: str | None = None
    answers: tuple[str, ...] = ()
    message: str | None = None
    group: str | None = None


def check_scores(item: ChoiceItem, scores: Sequence[float], tokens: Sequence[int]) -> None:
    """Raise InputError for scores that metrics give no meaning to.

    Args:
        item: The item that was scored.
        scores: Sum of the log-likelihoods of each continuation's tokens, in nats. Un-normalised scores may be positive.
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
                f"Item {item.id}, continuation {index}: score {score} of {count} tokens; needed is a finite one, of 1 or more.",
                hint="look at the model's logits: NaN and infinity come from overflow, no token from an empty continuation",
            )
