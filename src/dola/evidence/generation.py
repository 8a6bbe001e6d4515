"""Evaluates tasks with generated text: every way decodes the same prompts."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from dola.decoding.as_asked import as_generate, generate_as_asked
from dola.errors import DolaError, InputError
from dola.evidence.forecast import LEAST, Forecast
from dola.evidence.ways import Role, Way
from dola.model.anatomy import Anatomy
from dola.model.hidden import check_eval, cut_left, window
from dola.model.identity import what_model
from dola.scoring.gauge import unsaid
from dola.scoring.results_file import ResultsFile
from dola.tasks import Generation
from dola.tasks.items import QuestionItem
from dola.text.encoding import Encoder

PROBED, MORE = 2, 4
"""Prompts and tokens of the answers by which the cost of a way is measured."""
FIX_TEMPLATE = "fix the chat template in the model's folder (chat_template.jinja or tokenizer_config.json)"


@dataclass(frozen=True)
class Texts:
    """The generated texts.

    Attributes:
        by_way: Texts of each way, in the order of the items.
        truncated: Items whose prompts were cut on the left, to leave room for the answer in the model's window.
        unfinished: Whether the length limit cut each text, by way.
    """

    by_way: dict[str, list[str]]
    truncated: list[int]
    unfinished: dict[str, list[bool]]


def generate_texts(
    model: Any,
    tokenizer: Any,
    items: Sequence[QuestionItem],
    ways: Sequence[Way],
    settings: Generation,
    *,
    chat: bool = False,
    batch_size: int = 8,
    seed: int = 0,
    results: str | Path | None = None,
    facts: Mapping[str, str] | None = None,
    progress: bool = True,
    forecast: Forecast | None = None,
    parts: float = 1.0,
) -> Texts:
    """Generate a text with each way for each item.

    Args:
        model: A decoder-only Hugging Face model, without DoLa on it.
        tokenizer: Its tokenizer.
        items: The prompts.
        ways: The ways from `generation_ways`.
        settings: Length, stop strings and temperature.
        chat: Whether prompts use the chat template.
        batch_size: Prompts at a time, of similar length.
        seed: Sampling seed, if there is a temperature.
        results: A file that stores each text. If it exists, the run resumes from it.
        facts: Further properties that `results` must match, by name.
        progress: Whether to show a progress bar on stderr.
        forecast: Announces how long the run takes, if it is to be announced.
        parts: The items of the run by those of this call.

    Raises:
        InputError: A prompt has no tokens or one that the model has no embedding for, the chat template fails or loses words,
            an answer alone fills the window, the model is in training mode, or the results file belongs to a different run.
        LayersError: This model does not have the layers.
    """
    check_eval(model)
    anatomy = Anatomy.of(model)
    for way in ways:  # fail before spending hours on the others
        if way.recipe is not None and way.recipe.dola is not None:
            anatomy.candidates(way.recipe.dola.layers)
    prompts, truncated = prompts_of(model, tokenizer, items, settings.max_new_tokens, chat=chat)
    jobs = len(ways) * len(items)

    def run() -> dict[str, str]:
        return {
            **(facts or {}),
            **what_model(model),
            "ways": repr(ways),
            "prompts": hashlib.sha256(repr(prompts).encode()).hexdigest(),
            "generation": f"{settings}, batches of {batch_size}, seed {seed}",
            "cut answers": "marked",
        }

    with (
        ResultsFile.open(results, run, lambda number, found: 0 <= number < jobs and _is_text(found)) as kept,
        tqdm(total=jobs, initial=len(kept.items), unit="text", disable=None if progress else True) as bar,
    ):
        begun = _Begun(model, tokenizer, settings, ways)
        for number, batch in _order(prompts, batch_size, len(ways)):
            # A batch runs as a whole, so that an interrupted run ends with the same texts.
            places = [number * len(items) + item for item in batch]
            if all(place in kept.items for place in places):
                continue
            torch.manual_seed(seed + places[0])
            start, asked = time.perf_counter(), [prompts[item] for item in batch]
            texts = _written(model, tokenizer, asked, ways[number], settings)
            for place, (text, unfinished) in zip(places, texts, strict=True):
                if place not in kept.items:
                    kept.add(place, {"text": text, "unfinished": unfinished})
                    bar.update()
            if forecast is not None and ways[number].role is Role.VANILLA:
                seconds, share = time.perf_counter() - start, parts * len(items) / len(batch)
                begun.announce(forecast, seconds, asked, [text for text, _ in texts], share)
                forecast = None
        found = {way.name: [kept.items[i * len(items) + j] for j in range(len(items))] for i, way in enumerate(ways)}
    return Texts(
        {name: [each["text"] for each in of] for name, of in found.items()},
        truncated,
        {name: [each["unfinished"] for each in of] for name, of in found.items()},
    )


def _is_text(found: Any) -> bool:
    """Whether a file of results holds a text here."""
    return isinstance(found, dict) and isinstance(found.get("text"), str) and isinstance(found.get("unfinished"), bool)


def prompts_of(
    model: Any, tokenizer: Any, items: Sequence[QuestionItem], max_new_tokens: int, *, chat: bool
) -> tuple[list[list[int]], list[int]]:
    """The tokens of each prompt, cut on the left to leave room for the answer, and the indices of those that were cut.

    Raises:
        InputError: See `generate_texts`.
    """
    longest = window(model)
    room = None if longest is None else longest - max_new_tokens
    if room is not None and room < 1:
        raise InputError(
            f"Answers have up to {max_new_tokens} tokens; the model's window of {longest} leaves no room for a prompt.",
            hint="use a model with a longer window",
        )
    encoder = Encoder.of(model, tokenizer)
    asked = [item.message if chat and item.message is not None else item.prompt for item in items]
    prompts = [encoder.prompt(text, chat=chat, hint=FIX_TEMPLATE) for text in asked]
    if room is None:
        return prompts, []
    truncated = [i for i, tokens in enumerate(prompts) if len(tokens) > room]
    for i in truncated:
        prompts[i] = cut_left(prompts[i], room, tokenizer.bos_token_id)
    return prompts, truncated


def _order(prompts: Sequence[Sequence[int]], size: int, ways: int) -> Iterator[tuple[int, list[int]]]:
    """The batches of each way. Each way begins with prompts of middle length, from which its time is extrapolated."""
    batches = list(_batches(prompts, size))
    if batches:
        batches.insert(0, batches.pop(len(batches) // 2))
    for number in range(ways):
        for batch in batches:
            yield number, batch


class _Begun:
    """A run that has written its first batch.

    The ways differ in what a token of the prompt and a token of the answer cost. Both are measured for each by answers of one
    token and of some tokens, which are thrown away.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: Generation, ways: Sequence[Way]) -> None:
        self._model, self._tokenizer, self._settings, self._ways = model, tokenizer, settings, ways

    def announce(
        self, forecast: Forecast, seconds: float, prompts: list[list[int]], texts: Sequence[str], batches: float
    ) -> None:
        """Say how long all batches take, given the seconds and the texts of vanilla's first one."""
        if seconds * batches * len(self._ways) < LEAST:
            return
        length = max(1, *(len(self._tokenizer(text)["input_ids"]) for text in texts))
        known: dict[str, float] = {}

        def total(ways: Sequence[Way]) -> float:
            for way in ways:
                if way.name not in known:
                    known[way.name] = self._seconds(way, prompts[:PROBED], length)
            vanilla = next(known[way.name] for way in ways if way.role is Role.VANILLA)
            return seconds * batches * sum(known[way.name] for way in ways) / vanilla

        sets = {}
        for name, ways in forecast.sets().items():
            with suppress(DolaError), unsaid():  # a method that this model cannot have, for one
                sets[name] = total(ways)
        forecast.say(total(self._ways), sets)

    def _seconds(self, way: Way, prompts: list[list[int]], length: int) -> float:
        """Seconds of an answer of so many tokens to some prompts."""

        def timed(tokens: int) -> float:
            settings = replace(self._settings, max_new_tokens=tokens, stop=())
            start = time.perf_counter()
            _written(self._model, self._tokenizer, prompts, way, settings)
            return time.perf_counter() - start

        first, some = timed(1), timed(1 + MORE)
        return first + max(some - first, 0.0) / MORE * (length - 1)


def _batches(prompts: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of prompts, batched by similar length."""
    order = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _written(model: Any, tokenizer: Any, prompts: list[list[int]], way: Way, settings: Generation) -> list[tuple[str, bool]]:
    """The text after each prompt, and whether the length limit cut it."""
    inputs = Encoder.of(model, tokenizer).padded(prompts, device=model.device)
    sampling: dict[str, Any] = {"do_sample": False}
    if settings.temperature is not None:  # from all tokens: transformers' own top-k is 50
        sampling = {"do_sample": True, "temperature": settings.temperature, "top_k": 0}
    mode: Mapping[str, Any] = {
        **sampling,
        "max_new_tokens": settings.max_new_tokens,
        "repetition_penalty": way.repetition_penalty,
        **({"stop_strings": list(settings.stop)} if settings.stop else {}),
    }
    assert way.recipe is not None
    made = generate_as_asked(model, tokenizer, inputs, mode, generate=as_generate(model, way.recipe.dola))
    return [(tokenizer.decode(row, skip_special_tokens=True), not end) for row, end in zip(made.rows, made.ended, strict=True)]
