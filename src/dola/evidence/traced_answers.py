"""Answers of plain decoding, whether they are right, and the signals (`signals.py`) of their tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from dola.errors import UsageError
from dola.evidence.generation import prompts_of
from dola.evidence.sample import Sample
from dola.evidence.signals import Read, aggregated, signal_names
from dola.methods.config import DoLaConfig
from dola.model.anatomy import Anatomy
from dola.model.identity import what_model
from dola.scoring.results_file import ResultsFile
from dola.scoring.score import lines_of, score
from dola.tasks import ChoiceTask, GenerationTask, Task
from dola.tasks.prompting import before_stop
from dola.text.chat import has_chat
from dola.text.encoding import Encoder
from dola.tracing.reader import LayerReader
from dola.tracing.trace import tokens_behind

PLAIN = "plain"


@dataclass(frozen=True)
class Answer:
    """One answer.

    Attributes:
        right: Whether it is right.
        text: The answer: generated, or the best-ranked of the given ones.
        tokens: Number of its tokens.
        signals: Its signals by name, the control's among them.
    """

    right: bool
    text: str
    tokens: int
    signals: dict[str, float]


@dataclass(frozen=True)
class _Line:
    """The tokens of an answer after those of its prompt."""

    ids: Sequence[int]
    first: int
    tokens: Sequence[int]
    text: str
    right: bool


def check_task(task: Task) -> None:
    """Refuse a task whose answers are not right or wrong by themselves.

    Raises:
        UsageError: A judge decides, or the first metric is not right or wrong.
    """
    if not task.measured_alone:
        raise UsageError(f"Answers of {task.name} are judged elsewhere.", hint="--signals needs a task that says what is right")
    if not task.metrics[0].binary:
        raise UsageError(
            f"{task.metrics[0].name}, the first metric of {task.name}, is not right or wrong.", hint="use another task"
        )


def read_answers(
    model: Any,
    tokenizer: Any,
    sample: Sample,
    config: DoLaConfig,
    *,
    results: str | Path | None = None,
    progress: bool = True,
) -> tuple[list[Answer], list[str]]:
    """Answers to all items of a sample, by plain greedy decoding or as the likeliest of the given ones, and notes on them.

    Args:
        model: A decoder-only Hugging Face model, without DoLa on it.
        tokenizer: Its tokenizer.
        sample: The items.
        config: How DoLa reads the layers. It decodes nothing.
        results: A file that stores results. If it exists, the run resumes from it.
        progress: Whether to show a progress bar on stderr.

    Raises:
        UsageError: See `check_task`.
        InputError: See `dola.score` and `dola.trace`.
        LayersError: This model does not have the layers.
    """
    check_task(sample.task)
    reader = LayerReader(Anatomy.of(model), config, 1)
    find = _chosen if isinstance(sample.task, ChoiceTask) else _written
    count = len(sample.items)

    def run() -> dict[str, str]:
        items = hashlib.sha256(repr(sample.items).encode()).hexdigest()
        return {**sample.facts, **what_model(model), "signals": f"{list(signal_names())} by {config.as_dict()}", "of": items}

    with ResultsFile.open(results, run, lambda item, found: 0 <= item < count and _is_answer(found)) as kept:
        found = find(model, tokenizer, sample, kept.items, results, progress)
        with tqdm(total=count, initial=len(kept.items), unit="answer", disable=None if progress else True) as bar:
            for item, line in found.lines:
                read = _reads(reader, config, line)
                answer = {"right": line.right, "text": line.text, "tokens": len(read), "signals": aggregated(read)}
                kept.add(item, answer)
                bar.update()
        return [Answer(**kept.items[item]) for item in range(count)], found.notes


@dataclass(frozen=True)
class _Found:
    """The answers that are still to be read, one after the other, and notes on all of them."""

    lines: Iterator[tuple[int, _Line]]
    notes: list[str]


def _chosen(
    model: Any, tokenizer: Any, sample: Sample, done: dict[int, Any], results: str | Path | None, progress: bool
) -> _Found:
    """The given answer to which the model gives the highest sum of log-likelihoods; the first of equals."""
    items = sample.items
    contexts, given = [item.context for item in items], [item.continuations for item in items]
    kept = None if results is None else f"{results}.scores"
    scores = score(
        model, tokenizer, contexts, given, {PLAIN: None}, results=kept, facts=sample.facts, progress=progress
    )  # one forward for beginnings that answers share

    def lines() -> Iterator[tuple[int, _Line]]:
        encoder = Encoder.of(model, tokenizer)
        for i, item in enumerate(items):
            if i not in done:
                best = max(range(len(given[i])), key=scores.values[PLAIN][i].__getitem__)
                ((line,), _) = lines_of(model, encoder, [item.context], [[given[i][best]]])
                yield i, _Line(line.tokens, line.first, line.targets, given[i][best], item.correct[best])

    return _Found(lines(), _cut(scores.truncated, len(items)))


def _written(
    model: Any, tokenizer: Any, sample: Sample, done: dict[int, Any], results: str | Path | None, progress: bool
) -> _Found:
    """What greedy decoding writes without a repetition penalty, right by the task's first metric."""
    task = sample.task
    assert isinstance(task, GenerationTask)
    asking = task.generation
    prompts, truncated = prompts_of(
        model, tokenizer, sample.items, asking.max_new_tokens, chat=task.chat and has_chat(tokenizer)
    )

    def lines() -> Iterator[tuple[int, _Line]]:
        assert task.measure is not None
        stops = {"stop_strings": list(asking.stop)} if asking.stop else {}
        call = {"max_new_tokens": asking.max_new_tokens, "repetition_penalty": 1.0, **stops}
        for i, (item, prompt) in enumerate(zip(sample.items, prompts, strict=True)):
            if i not in done:
                made = tokens_behind(model, tokenizer, prompt, None, **call)
                text = tokenizer.decode(made, skip_special_tokens=True)
                right = task.measure(item, text)[task.metrics[0].name] == 1
                mine = of_answer(tokenizer, made, asking.stop)
                yield i, _Line([*prompt, *mine[:-1]], len(prompt) - 1, mine, before_stop(text, asking.stop), right)

    return _Found(lines(), _cut(truncated, len(prompts)))


def of_answer(tokenizer: Any, tokens: Sequence[int], stop: Sequence[str]) -> Sequence[int]:
    """The tokens that make the answer: without a stop string, white space and an end token after it. At least the first."""

    def text(count: int) -> str:
        return before_stop(tokenizer.decode(tokens[:count], skip_special_tokens=True), stop)

    whole = text(len(tokens))
    return tokens[: next(count for count in range(1, len(tokens) + 1) if text(count) == whole)]


def _reads(reader: LayerReader, config: DoLaConfig, line: _Line) -> list[Read]:
    traced = reader.read(line.ids, line.first, line.tokens)
    return [Read(token, config, reader.candidates, reader.anatomy.num_layers) for token in traced]


def _cut(truncated: Sequence[int], count: int) -> list[str]:
    """A note on prompts that were cut, if any."""
    return [f"{len(truncated)} of {count} prompts were cut on the left to fit the model's window."] if truncated else []


def _is_answer(found: Any) -> bool:
    """Whether a value from a file can be an Answer."""
    return (
        isinstance(found, dict)
        and found.keys() == Answer.__dataclass_fields__.keys()
        and isinstance(found["signals"], dict)
        and all(isinstance(value, (int, float)) for value in found["signals"].values())
    )
