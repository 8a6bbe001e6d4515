"""Prompts as tokens: through the model's chat template, or as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from dola.errors import DolaError, InputError


def has_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def apply_chat(
    tokenizer: Any,
    prompts: str | Sequence[str],
    *,
    error: type[DolaError] = InputError,
    hint: str = "do without the chat template",
    **settings: Any,
) -> Any:
    """The tokenizer's output for a user's message that is to be answered, or for a batch of them.

    Args:
        tokenizer: One that has a chat template.
        prompts: A message, or several.
        error, hint: What is raised where the template fails, and what to do about it.
        **settings: More arguments of `apply_chat_template`.

    Raises:
        error: The chat template fails: some refuse a message with `raise_exception`, some are broken.
    """
    messages = [[{"role": "user", "content": prompt}] for prompt in ([prompts] if isinstance(prompts, str) else prompts)]
    conversation = messages[0] if isinstance(prompts, str) else messages
    try:
        return tokenizer.apply_chat_template(conversation, add_generation_prompt=True, return_dict=True, **settings)
    except Exception as problem:  # a template is a program of somebody's: it adds words to numbers, or divides by zero
        by_template = type(problem).__module__.startswith("jinja2")
        what = "chat template fails: " if by_template else f"chat template or tokenizer fails: {type(problem).__name__}: "
        raise error(f"The model's {what}{problem}.", hint=hint) from problem


def encode_prompt(tokenizer: Any, text: str, *, chat: bool) -> list[int]:
    """The tokens of `text`; with `chat` as a user's message that is to be answered.

    Raises:
        InputError: The chat template fails.
    """
    return list((apply_chat(tokenizer, text) if chat else tokenizer(text))["input_ids"])
