"""The prompts of a benchmark: cut to a given length, with answers that repeat their context, or of random tokens.

The texts are in `prompts/`. `mixed` holds beginnings of several kinds of text. `copy` holds tasks whose answers repeat much of
the prompt (summaries that quote, answers from quoted passages, edits of code), so that the prompt itself provides drafts.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dola.errors import ConfigError, InputError
from dola.text.chat import has_chat
from dola.text.encoding import Encoder

CUT = "use --prompt-lengths 64,512: prompts that are cut to a length do not use the chat template"


@dataclass(frozen=True, eq=False)
class Case:
    """Prompts that are measured together.

    Attributes:
        name: Its name for people.
        prompts: One or more batches of token ids [B, T], all of the same shape. Repetition r uses batch r modulo their number.
    """

    name: str
    prompts: tuple[Tensor, ...]

    @property
    def batch_size(self) -> int:
        """B."""
        return self.prompts[0].shape[0]

    @property
    def prompt_tokens(self) -> int:
        """T."""
        return self.prompts[0].shape[1]


def texts(kind: str) -> dict[str, str]:
    """The shipped prompts of a kind ("mixed" or "copy"), by name."""
    folder = files("dola.bench") / "prompts" / kind
    found = sorted((file.name, file.read_text(encoding="utf-8")) for file in folder.iterdir() if file.name.endswith(".txt"))
    return {name.removesuffix(".txt"): text.strip("\n") for name, text in found}


def read_texts(path: Path) -> dict[str, str]:
    """The prompts of a user's file, separated by lines with `---`.

    Raises:
        InputError: The file does not exist, or does not contain a prompt.
    """
    try:
        parts = [part.strip("\n") for part in path.read_text(encoding="utf-8").split("\n---\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"The prompts {str(path)!r} cannot be read: {error}", hint="use mixed, copy, or a text file in UTF-8"
        ) from error
    found = {f"{path.stem}-{number}": part for number, part in enumerate(parts, 1) if part.strip()}
    if not found:
        raise InputError(f"{str(path)!r} does not contain a prompt.", hint="write prompts, separated by lines with ---")
    return found


def cut_case(encoder: Encoder, source: dict[str, str], *, batch_size: int, length: int, batches: int) -> Case:
    """Prompts of exactly `length` tokens, each a different stretch of natural text; long ones continue with the next text.

    A stretch that is longer than all texts together repeats them.
    """
    passages = list(source.values())
    prompts = [
        torch.tensor([_stretch(encoder, passages, batch * batch_size + row, length) for row in range(batch_size)])
        for batch in range(batches)
    ]
    return Case(f"batch {batch_size}, {length} tokens", tuple(prompts))


def whole_cases(encoder: Encoder, source: dict[str, str]) -> list[Case]:
    """One case for each whole text, with the chat template if the tokenizer has one."""
    chat = has_chat(encoder.tokenizer)
    found = {name: torch.tensor([encoder.prompt(text, chat=chat, hint=CUT)]) for name, text in source.items()}
    return [Case(f"{name}, {ids.shape[1]} tokens", (ids,)) for name, ids in found.items()]


def random_case(vocabulary: int, *, batch_size: int, length: int, batches: int) -> Case:
    """Random tokens for models with random weights, the same in every run."""
    generator = torch.Generator().manual_seed(0)
    prompts = tuple(torch.randint(vocabulary, (batch_size, length), generator=generator) for _ in range(batches))
    return Case(f"batch {batch_size}, {length} random tokens", prompts)


def check_window(model: Any, cases: list[Case], new_tokens: int) -> None:
    """Raise ConfigError for a case that does not fit the model's window."""
    window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    for case in cases:
        if window is not None and case.prompt_tokens + new_tokens > window:
            raise ConfigError(
                f"{case.name}: {case.prompt_tokens} prompt tokens and {new_tokens} new ones exceed the window of {window}.",
                hint=f"use at most {window - new_tokens} prompt tokens",
            )


def _stretch(encoder: Encoder, passages: list[str], number: int, length: int) -> list[int]:
    """Token ids of the `number`-th stretch. It starts with one of the texts or, once all were used, later inside one."""
    start = number % len(passages)
    rotated = passages[start:] + passages[:start]
    words = rotated[0].split(" ")
    rotated[0] = " ".join(words[number // len(passages) * 3 % len(words) :])
    text = "\n\n".join(rotated)
    ids = encoder.text(text)
    if not ids:
        raise InputError("The tokenizer gives no tokens for the prompts.", hint="check the tokenizer, or use other --prompts")
    while len(ids) < length:
        ids = ids + encoder.bare("\n\n" + "\n\n".join(passages))
    return ids[:length]
