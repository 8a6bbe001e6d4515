"""A prompt as tokens: through the model's chat template, or as it stands."""

from __future__ import annotations

from typing import Any

from dola.errors import InputError


def has_chat(tokenizer: Any) -> bool:
    """Whether a tokenizer has a chat template."""
    return bool(getattr(tokenizer, "chat_template", None))


def encode_prompt(tokenizer: Any, text: str, *, chat: bool) -> list[int]:
    """The tokens of `text`; with `chat` as a user's message that is to be answered.

    Raises:
        InputError: The chat template fails: some refuse a message, some are broken.
    """
    if not chat:
        return list(tokenizer(text)["input_ids"])
    from jinja2 import TemplateError  # transformers needs it for templates

    message = [{"role": "user", "content": text}]
    try:
        return list(tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"])
    except TemplateError as error:
        raise InputError(f"The model's chat template fails: {error}.", hint="do without the chat template") from None
