"""Tasks that are answered with generated text: every way decodes the same prompts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm

from dola.evidence.ways import Way
from dola.generate import generate
from dola.results_file import ResultsFile
from dola.tasks import Generation
from dola.tasks.items import QuestionItem


def generate_texts(
    model: Any,
    tokenizer: Any,
    items: Sequence[QuestionItem],
    ways: Sequence[Way],
    settings: Generation,
    *,
    batch_size: int = 8,
    seed: int = 0,
    results: str | Path | None = None,
    progress: bool = True,
) -> dict[str, list[str]]:
    """What each way writes for each item: way -> texts, in the order of the items.

    Args:
        model: A decoder-only Hugging Face model, without DoLa on it.
        tokenizer: Its tokenizer.
        items: The prompts.
        ways: Of `generation_ways`.
        settings: Length, stop strings and temperature.
        batch_size: Prompts at a time, of like length.
        seed: Of sampling, where the temperature asks for it.
        results: A file that keeps what has been written, text by text. Where it exists, the run goes on from it.
        progress: Whether to show a progress bar on stderr.
    """
    jobs = [(way, item) for way in range(len(ways)) for item in range(len(items))]
    run = {
        "model": f"{model.config.name_or_path} ({type(model).__name__}, {model.dtype})",
        "ways": repr(ways),
        "prompts": repr([item.prompt for item in items]),
        "generation": f"{settings}, batches of {batch_size}, seed {seed}",
        "versions": f"torch {torch.__version__}, transformers {transformers.__version__}",
    }
    with (
        ResultsFile.open(results, run) as kept,
        tqdm(total=len(jobs), initial=len(kept.items), unit="text", disable=not progress) as bar,
    ):
        for way in range(len(ways)):
            for batch in _batches(items, batch_size):
                numbers = [way * len(items) + item for item in batch]
                if all(number in kept.items for number in numbers):
                    continue
                # A batch is run whole, so that an interrupted run ends with the same texts.
                torch.manual_seed(seed + numbers[0])
                texts = _written(model, tokenizer, [items[item].prompt for item in batch], ways[way], settings)
                for number, text in zip(numbers, texts, strict=True):
                    if number not in kept.items:
                        kept.add(number, text)
                        bar.update()
        return {way.name: [kept.items[i * len(items) + j] for j in range(len(items))] for i, way in enumerate(ways)}


def _batches(items: Sequence[QuestionItem], size: int) -> Iterator[list[int]]:
    """Indices of prompts of like length, together."""
    order = sorted(range(len(items)), key=lambda i: (len(items[i].prompt), i))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _written(model: Any, tokenizer: Any, prompts: list[str], way: Way, settings: Generation) -> list[str]:
    inputs = tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left").to(model.device)
    mode: Mapping[str, Any] = {
        "max_new_tokens": settings.max_new_tokens,
        "repetition_penalty": way.repetition_penalty,
        "pad_token_id": tokenizer.pad_token_id,
        **({"do_sample": False} if settings.temperature is None else {"do_sample": True, "temperature": settings.temperature}),
        **({"stop_strings": list(settings.stop), "tokenizer": tokenizer} if settings.stop else {}),
    }
    assert way.recipe is not None
    if way.recipe.dola is None:
        output = model.generate(**inputs, **mode)
    else:
        output = generate(model, **inputs, **mode, dola_layers=way.recipe.dola)
    texts: list[str] = tokenizer.batch_decode(output[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts
