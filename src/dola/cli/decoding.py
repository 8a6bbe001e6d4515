"""From prompts to completions, for the verbs that generate: encode, decode a batch, keep only the answer.

This module does not import torch, and uses transformers only through the given model.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dola.errors import InputError, UsageError
from dola.text.chat import can_chat, has_chat
from dola.text.encoding import Encoder


@dataclass(frozen=True)
class Decoding:
    """How tokens are chosen from scores.

    Attributes:
        max_new_tokens: Maximum length of a completion.
        repetition_penalty: Repetition penalty; 1 means off.
        sample: Whether to sample tokens instead of taking the best.
        temperature, top_p: Sampling temperature, and share of probability to sample from; 1 has no effect. Top-k, 50 in
            transformers, is off.
        seed: Sampling seed.
    """

    max_new_tokens: int
    repetition_penalty: float
    sample: bool = False
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None

    def arguments(self) -> dict[str, Any]:
        """Arguments of `generate_as_asked`, which also handles a model's own generation config."""
        drawn = {"temperature": self.temperature, "top_p": self.top_p, "top_k": 0} if self.sample else {}
        return {
            "do_sample": self.sample,
            "max_new_tokens": self.max_new_tokens,
            "repetition_penalty": self.repetition_penalty,
            **drawn,
        }


@dataclass(frozen=True)
class Completion:
    """A model's completion of one prompt.

    Attributes:
        text: The completion alone, without special tokens.
        token_ids: Its tokens, including the one that ended it.
        finish_reason: "stop" if an end token or a stop string of the model ended it, "length" if `max_new_tokens` did.
        prompt_tokens: Length of the prompt, including the chat template.
    """

    text: str
    token_ids: list[int]
    finish_reason: str
    prompt_tokens: int


@dataclass(frozen=True)
class Batch:
    """Completions of one `generate` call, and its duration in seconds, including the prompts' forward pass."""

    completions: list[Completion]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows per second."""
        return sum(len(completion.token_ids) for completion in self.completions) / self.seconds


def uses_chat(tokenizer: Any, chat: bool | None) -> bool:
    """Whether prompts use the chat template; None uses it if the model has one.

    Raises:
        UsageError: A chat template was requested, but the model has none.
    """
    if chat and not can_chat(tokenizer):
        raise UsageError("--chat was given, but this model has no chat template.", hint="omit --chat, or use an instruct model")
    return has_chat(tokenizer) if chat is None else chat


def encode(model: Any, tokenizer: Any, prompts: Sequence[str], *, chat: bool) -> dict[str, Any]:
    """Input ids and attention mask [B, T] of prompts, padded on the left, with the chat template if `chat`.

    Raises:
        InputError: A prompt has no tokens; the model has no embedding for a token; or the chat template refuses a prompt or
            loses its words.
    """
    encoder = Encoder.of(model, tokenizer)
    return encoder.padded([encode_prompt(encoder, prompt, chat=chat) for prompt in prompts])


def encode_prompt(encoder: Encoder, prompt: str, *, chat: bool, where: str = "") -> list[int]:
    """The tokens of one prompt. `where` is its file and line, for messages.

    Raises:
        InputError: See `encode`.
    """
    try:
        return encoder.prompt(prompt, chat=chat, hint="--no-chat")
    except InputError as error:
        if not where:
            raise
        raise InputError(f"{where}: {error.message[:1].lower()}{error.message[1:]}", hint=error.hint) from error


def check_length(model: Any, inputs: Any, max_new_tokens: int, *, option: str = "--max-new-tokens") -> None:
    """Refuse a prompt that leaves no room for the answer; `option` is the option that set its length.

    Raises:
        UsageError: See `check_lengths`.
    """
    check_lengths(model, [("", inputs["input_ids"].shape[-1])], max_new_tokens, option=option)


def check_lengths(
    model: Any, prompts: Sequence[tuple[str, int]], max_new_tokens: int, *, option: str = "--max-new-tokens"
) -> None:
    """The same for several prompts, given by place and number of tokens. The error names the longest.

    Raises:
        UsageError: Prompt and answer together exceed the model's window, if it states one.
    """
    check_room(window_of(model), prompts, max_new_tokens, option=option)


def window_of(model: Any) -> int | None:
    """Number of tokens that a model of transformers can read, if its config states it."""
    window: int | None = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    return window


def check_room(
    window: int | None, prompts: Sequence[tuple[str, int]], max_new_tokens: int, *, option: str = "--max-new-tokens"
) -> None:
    """The same for a window of that many tokens; None has room for everything.

    Raises:
        UsageError: See `check_lengths`.
    """
    where, length = max(prompts, key=lambda each: each[1])
    if window is None or length + max_new_tokens <= window:
        return
    room = window - length
    answer = f" and {option} is {max_new_tokens}; together the model allows {window}." if max_new_tokens else ""
    raise UsageError(
        f"{_the_prompt(where)} has {length} tokens{answer or f'; the model allows {window}.'}",
        hint=f"{option} {room}" if room > 0 else f"shorten the prompt by {min(max_new_tokens, 1) - room} tokens or more",
    )


def _the_prompt(where: str) -> str:
    return f"{where}: the prompt" if where else "The prompt"


def decode(model: Any, tokenizer: Any, inputs: Any, decoding: Decoding, *, streamer: Any = None) -> Batch:
    """Complete a batch of encoded prompts with a model, with or without DoLa attached.

    Raises:
        ModelError: The model's generation config cannot be used.
    """
    from dola.decoding.as_asked import generate_as_asked

    inputs = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    if decoding.seed is not None:
        import torch

        torch.manual_seed(decoding.seed)
    start = time.perf_counter()
    made = generate_as_asked(model, tokenizer, inputs, {**decoding.arguments(), "streamer": streamer})
    seconds = time.perf_counter() - start
    lengths = inputs["attention_mask"].sum(dim=-1).tolist()
    completions = []
    for row, ended, length in zip(made.rows, made.ended, lengths, strict=True):
        text = tokenizer.decode(row, skip_special_tokens=True)
        completions.append(Completion(text, row, "stop" if ended else "length", length))
    return Batch(completions, seconds)


def pieces(tokenizer: Any, token_ids: Sequence[int]) -> list[str]:
    """The text of each token in its context: joined, they give the whole text.

    A character that spans several tokens belongs to the last of them; the others are empty.
    """
    found: list[str] = []
    begin = read = 0  # earlier tokens are kept as context: some tokenizers drop a leading space
    for position in range(len(token_ids)):
        known = tokenizer.decode(token_ids[begin:read], skip_special_tokens=True)
        text = tokenizer.decode(token_ids[begin : position + 1], skip_special_tokens=True)
        last = position == len(token_ids) - 1
        if text.endswith("\ufffd") and not last:
            found.append("")
            continue
        found.append(text[len(known) :])
        begin, read = read, position + 1
    return found
