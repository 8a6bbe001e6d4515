"""The items of a task of lm-evaluation-harness as people read them, and what each row answers to them.

All of it is taken from the samples that the harness logs and from the task's own functions, so that an answer shown is the one
that was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dola.evidence.row_answers import Chosen
from dola.tasks.items import ChoiceItem, QuestionItem

Sample = Mapping[str, Any]
"""One item of one row, as `simple_evaluate` logs it."""


def _bytes(text: str) -> int:
    return len(text.encode())


_LENGTHS: Mapping[str, Callable[[str], int]] = {"acc_norm": len, "acc_bytes": _bytes}
"""Metrics that divide a choice's log-likelihood by its length, in characters or bytes, and how they count it."""


def item_of(task: Any, sample: Sample, name: str) -> ChoiceItem | QuestionItem:
    """An item: its question without demonstrations, and its right and wrong answers as far as the task says.

    Args:
        task: The task, as the harness loads it.
        sample: The item, in any row.
        name: The item's id.
    """
    doc, target = sample["doc"], sample["target"]
    if chooses(task):
        choices, right = _choices(task, doc), _right(task, sample)
        question = str(target) if _many_contexts(task) else str(task.doc_to_text(doc))
        return ChoiceItem(name, question, choices, tuple(i in right for i in range(len(choices))))
    if task.OUTPUT_TYPE == "loglikelihood_rolling":  # a text to predict: nothing is asked
        return QuestionItem(name, "", str(target))
    answers = target if isinstance(target, (list, tuple)) else [target]
    texts = [_choices(task, doc)[each] if isinstance(each, int) and _has_choices(task) else str(each) for each in answers]
    return QuestionItem(name, "", str(task.doc_to_text(doc)), answers=tuple(text.strip() for text in texts))


def texts_of(samples: Sequence[Sample]) -> list[str]:
    """What a row wrote for each item, before the harness's filters."""
    return [str(sample["resps"][0][0]) for sample in samples]


def chosen_of(task: Any, samples: Sequence[Sample], metric: str) -> Chosen:
    """What a row chose for each item, by the rule of a metric, and the probability of the right choices.

    Args:
        task: The task.
        samples: The row's items.
        metric: Name of the metric whose rule decides; by default the likeliest choice is taken.
    """
    length = _LENGTHS.get(metric.partition(",")[0])
    texts, mass = [], []
    for sample in samples:
        choices, right = _choices(task, sample["doc"]), _right(task, sample)
        sums = [float(found[0]) for found in sample["filtered_resps"][: len(choices)]]
        scores = sums if length is None else [each / max(length(text), 1) for each, text in zip(sums, choices, strict=True)]
        texts.append(choices[max(range(len(choices)), key=scores.__getitem__)].strip())
        odds = [math.exp(each - max(sums)) for each in sums]
        mass.append(math.fsum(odds[i] for i in right) / math.fsum(odds))
    return Chosen(texts, mass)


def chooses(task: Any) -> bool:
    """Whether the task has choices that are scored."""
    return bool(task.OUTPUT_TYPE == "multiple_choice")


def _has_choices(task: Any) -> bool:
    return getattr(getattr(task, "config", None), "doc_to_choice", None) is not None


def _many_contexts(task: Any) -> bool:
    """Whether the choices are contexts of one continuation, as in Winogrande."""
    return bool(getattr(task, "multiple_input", 0))


def _choices(task: Any, doc: Any) -> tuple[str, ...]:
    return tuple(map(str, task.doc_to_choice(doc) if _has_choices(task) else doc["choices"]))


def _right(task: Any, sample: Sample) -> set[int]:
    """The places of the right choices; empty where the data name none of them."""
    choices = _choices(task, sample["doc"])
    gold = task.doc_to_text(sample["doc"]) if _many_contexts(task) else sample["target"]
    if not _has_choices(task):  # the harness's old class for such tasks
        gold = sample["doc"]["gold"]
    found = [choices.index(each) if each in choices else -1 for each in _listed(gold) if isinstance(each, str)]
    found += [each for each in _listed(gold) if isinstance(each, int)]
    return {each for each in found if 0 <= each < len(choices)}


def _listed(gold: Any) -> Sequence[Any]:
    return gold if isinstance(gold, (list, tuple)) else [gold]
