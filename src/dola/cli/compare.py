"""`dola compare`: one prompt answered greedily, greedily with the repetition penalty, and with DoLa, side by side.

The middle column is a control: DoLa is used with a repetition penalty, and part of what it changes is the penalty's doing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dola.attach import attach
from dola.config import DoLaConfig
from dola.generate import RECOMMENDED_PENALTY
from dola.generation import check_not_empty
from dola.models import load


@dataclass(frozen=True)
class Answer:
    """What one way of decoding made of a prompt."""

    title: str
    text: str
    token_ids: list[int]
    tokens_per_second: float


def answers(
    model: Any,
    tokenizer: Any,
    prompt: str,
    *,
    layers: Sequence[str | Sequence[int]] = ("high",),
    max_new_tokens: int = 50,
    repetition_penalty: float = RECOMMENDED_PENALTY,
    chat: bool = True,
) -> list[Answer]:
    """Answers of greedy decoding, of greedy decoding with the same repetition penalty, and of DoLa with each of `layers`.

    Args:
        model, tokenizer: As `dola.load` returns them.
        prompt: The text to continue or, with `chat` and a model that has a chat template, the user's message.
        layers: One DoLa column for each: "high", "low", or indices.
        max_new_tokens: Length of the answers.
        repetition_penalty: For the control and for DoLa.
        chat: Whether to use the model's chat template, where it has one.
    """
    inputs = encode(tokenizer, prompt, chat=chat).to(model.device)
    check_not_empty(inputs["input_ids"])
    ways: list[tuple[str, DoLaConfig | None, float]] = [
        ("greedy", None, 1.0),
        (f"greedy, penalty {repetition_penalty}", None, repetition_penalty),
        *(
            (f"DoLa {_label(chosen)}, penalty {repetition_penalty}", DoLaConfig(chosen), repetition_penalty)
            for chosen in layers
        ),
    ]
    return [_answer(model, tokenizer, inputs, title, config, penalty, max_new_tokens) for title, config, penalty in ways]


def encode(tokenizer: Any, prompt: str, *, chat: bool = True) -> Any:
    """Input ids and attention mask of a prompt, through the chat template where there is one and `chat` asks for it."""
    if chat and getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": prompt}]
        return tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    return tokenizer(prompt, return_tensors="pt")


def render(console: Console, prompt: str, found: Sequence[Answer]) -> None:
    """Print a prompt and its answers side by side; what departs from the first answer is marked."""
    console.print(Text("\n" + prompt.strip(), style="bold"))
    table = Table(show_lines=False, expand=True, padding=(0, 1))
    for answer in found:
        table.add_column(Text(answer.title), ratio=1, overflow="fold")
    table.add_row(*(_marked(answer.text.strip(), found[0].text.strip()) for answer in found))
    table.add_row(*(Text(f"{answer.tokens_per_second:.1f} tokens/s", style="dim") for answer in found))
    console.print(table)


def command(
    prompt: Annotated[str, typer.Argument(help="The text to continue.")],
    model: Annotated[str, typer.Option(help="A hub id, a folder, a .gguf file, or an alias.")] = "smollm2",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Length of the answers.")] = 50,
    repetition_penalty: Annotated[float, typer.Option(min=0.1, help="For the control and for DoLa.")] = RECOMMENDED_PENALTY,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template, where it has one.")] = True,
) -> None:
    """Answer a prompt greedily and with DoLa. Example: dola compare "The capital of Washington State is"."""
    loaded, tokenizer = load(model)
    found = answers(
        loaded,
        tokenizer,
        prompt,
        layers=("low", "high"),
        max_new_tokens=max_new_tokens,
        repetition_penalty=repetition_penalty,
        chat=chat,
    )
    render(Console(), prompt, found)


def _answer(
    model: Any, tokenizer: Any, inputs: Any, title: str, config: DoLaConfig | None, penalty: float, max_new_tokens: int
) -> Answer:
    with attach(model, config) if config is not None else nullcontext():
        start = time.perf_counter()
        output = model.generate(
            **inputs,
            do_sample=False,
            max_new_tokens=max_new_tokens,
            repetition_penalty=penalty,
            pad_token_id=tokenizer.pad_token_id,
        )
        seconds = time.perf_counter() - start
    new: torch.Tensor = output[0, inputs["input_ids"].shape[1] :]
    return Answer(title, tokenizer.decode(new, skip_special_tokens=True), new.tolist(), len(new) / seconds)


def _label(layers: str | Sequence[int]) -> str:
    return layers if isinstance(layers, str) else ", ".join(map(str, layers))


def _marked(text: str, first: str) -> Text:
    """The text, with the part after what it shares with the first answer in colour."""
    shared = next((i for i, (a, b) in enumerate(zip(text, first, strict=False)) if a != b), min(len(text), len(first)))
    shared = text.rfind(" ", 0, shared) + 1 if shared < len(text) else shared
    return Text(text[:shared]) + Text(text[shared:], style="bold cyan")
