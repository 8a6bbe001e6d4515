"""The user's own questions as a task, with columns of any name.

    question, answer                          generation: the text is compared with the known answers
    question, answer, wrong                   multiple choice by likelihood
    question, choices, label                  multiple choice by likelihood
    context, id, group                        optional, with any of these

An answer may be a list. A cell of a table may hold several, as JSON or separated by "|" or ";".
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from dola.tasks import answers
from dola.tasks.data import Data
from dola.tasks.items import ChoiceItem, check_scores, per_token, share_of_right
from dola.tasks.meaning import JUDGED
from dola.tasks.own_columns import Columns
from dola.tasks.own_items import MAX_NEW_TOKENS, Asking, choice_items, own_items
from dola.tasks.task import NO_PAPER, ChoiceTask, Generation, GenerationTask, Metric, Task

__all__ = ["MAX_NEW_TOKENS", "Asking", "Columns", "choice_metrics", "own_items", "own_task"]


def own_task(
    data: Data, name: str, columns: Columns | None = None, asking: Asking | None = None, *, judged: bool = False
) -> Task:
    """Make a task from the user's data.

    Args:
        data: The rows.
        name: Name of the task, for reports.
        columns: The columns; by default they are found by name.
        asking: How questions are turned into prompts.

    Raises:
        UsageError, DataError: See `Columns.of`.
    """
    columns, asking = columns or Columns.of(data), asking or Asking()
    common: dict[str, Any] = {
        "name": name,
        "files": (name,),
        "homepage": "",
        "published": {},
        "hub": None,
        "paper": NO_PAPER,
    }
    if columns.scored:
        return ChoiceTask(
            **common,
            description="own questions: is a right answer likelier than the wrong ones?",
            make_items=lambda rows: choice_items(rows, columns, asking),
            metrics=(
                Metric("accuracy", "a right answer has the highest sum of log-likelihoods", chance=share_of_right),
                Metric("accuracy_per_token", "the same by the mean of each token", chance=share_of_right),
            ),
            measure=choice_metrics,
        )
    stop = () if asking.message("", None) is not None else ("\n",)
    return GenerationTask(
        **common,
        description="own questions: is a known answer in the text?",
        make_items=lambda rows: own_items(rows, columns, asking),
        metrics=(*((JUDGED,) if judged else ()), *answers.METRICS),
        measure=partial(answers.measure, stop=stop),
        generation=Generation(asking.max_new_tokens, stop),
        judged=judged,
        compared=judged,
        chat=not stop,
    )


def choice_metrics(item: ChoiceItem, scores: Sequence[float], tokens: Sequence[int]) -> dict[str, float]:
    """Whether the likeliest answer is right, by sums and by means per token: 0 or 1. A tie with a wrong answer is wrong.

    Raises:
        InputError: See `check_scores`.
    """
    check_scores(item, scores, tokens)

    def right(values: Sequence[float]) -> float:
        best_wrong = max(value for value, correct in zip(values, item.correct, strict=True) if not correct)
        return float(max(value for value, correct in zip(values, item.correct, strict=True) if correct) > best_wrong)

    means = per_token(scores, tokens)
    return {"accuracy": right(scores), "accuracy_per_token": right(means)}
