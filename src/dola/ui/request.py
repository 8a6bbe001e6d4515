"""A request from the page, and its limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dola.errors import InputError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.names import RECOMMENDED_PENALTY
from dola.methods.registry import config_of
from dola.text.chat import has_chat
from dola.text.encoding import Encoder

CHARACTERS_PER_TOKEN = 40
"""Characters per allowed token; a longer text is refused before it is tokenized, which takes time as well."""


@dataclass(frozen=True)
class Limits:
    """Limits of one request.

    Attributes:
        prompt_tokens: Maximum number of tokens in a prompt, including the chat template.
        new_tokens: Maximum number of tokens in each answer.
        at_once: Requests that run at the same time; others wait for their turn.
        lens: Whether a request may name a lens, which is a file of this machine or of the hub.
    """

    prompt_tokens: int = 512
    new_tokens: int = 128
    at_once: int = 4
    lens: bool = True


@dataclass(frozen=True)
class Request:
    """The fields of the page's form, as filled in.

    Attributes:
        model: An alias, a hub id, or a folder.
        prompt: The text to continue or to answer.
        chat: Whether the prompt uses the model's chat template, if it has one.
        layers: "high", "low", "all", "last:10", or numbers separated by commas.
        settings: The method's settings by name; missing ones have their defaults.
        repetition_penalty: Repetition penalty of both ways.
        new_tokens: Maximum length of an answer.
        method: "dola", or the name of another method.
    """

    model: str = "smollm2"
    prompt: str = ""
    chat: bool = True
    layers: str = "high"
    settings: Mapping[str, Any] = field(default_factory=dict)
    repetition_penalty: float = RECOMMENDED_PENALTY
    new_tokens: int = 40
    method: str = DoLaConfig.method

    def config(self) -> MethodConfig:
        """The settings of the method.

        Raises:
            ConfigError: A value is not allowed.
        """
        return config_of({"method": self.method, "layers": self.layers.strip(), **self.settings})

    def check(self, limits: Limits) -> None:
        """Refuse mistakes that can be detected without a model.

        Raises:
            InputError: The prompt is empty, or a value is out of range.
            ConfigError: A value in DoLa's settings is not allowed.
        """
        if self.config().lens and not limits.lens:
            raise InputError("This page does not read through lenses.", hint="leave the lens empty")
        if not self.prompt.strip():
            raise InputError("The prompt is empty.", hint="type one, or pick an example")
        if len(self.prompt) > (longest := CHARACTERS_PER_TOKEN * limits.prompt_tokens):
            raise InputError(
                f"The prompt has {len(self.prompt):,} characters. Allowed: {longest:,}.", hint="shorten the prompt"
            )
        if not 1 <= self.new_tokens <= limits.new_tokens:
            raise InputError(
                f"{self.new_tokens} new tokens is out of range. Allowed: 1 to {limits.new_tokens}.",
                hint="choose fewer, or start the page with another --max-new-tokens",
            )
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(
                f"The repetition penalty {self.repetition_penalty} is out of range; it must be above 0.",
                hint=f"1 means off; the paper uses {RECOMMENDED_PENALTY}",
            )

    def tokens(self, encoder: Encoder, limits: Limits) -> list[int]:
        """The prompt's tokens.

        Raises:
            InputError: The prompt exceeds the limits; the model has no embedding for a token; or the chat template refuses
                the prompt or loses its words.
        """
        ids = encoder.prompt(self.prompt, chat=self.chat and has_chat(encoder.tokenizer))
        if len(ids) > limits.prompt_tokens:
            raise InputError(
                f"The prompt has {len(ids):,} tokens, including the model's template. Allowed: {limits.prompt_tokens:,}.",
                hint=f"shorten the prompt, or start the page with --max-prompt-tokens {len(ids)}",
            )
        return ids
