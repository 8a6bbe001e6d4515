"""What somebody asks for on the page, and the limits that it is held to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dola.errors import ConfigError, InputError
from dola.files.json_text import loads
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.names import RECOMMENDED_PENALTY
from dola.methods.registry import config_of
from dola.text.chat import has_chat
from dola.text.encoding import Encoder

CHARACTERS_PER_TOKEN = 40
"""A text with more of them for each token that is allowed is refused before it is tokenised, which takes time as well."""


@dataclass(frozen=True)
class Limits:
    """What one request may take.

    Attributes:
        prompt_tokens: Tokens of a prompt, chat template included.
        new_tokens: Tokens of each answer.
        at_once: Requests that are worked on at the same time; others wait for their turn.
    """

    prompt_tokens: int = 512
    new_tokens: int = 128
    at_once: int = 4


@dataclass(frozen=True)
class Request:
    """The fields of the page's form, as they were filled in.

    Attributes:
        model: An alias, a hub id, a folder.
        prompt: What to continue, or to answer.
        chat: Whether the prompt goes through the model's chat template, where it has one.
        layers: "high", "low", "all", "last:10", or numbers with commas between them.
        settings: Of DoLa, by name; those that are not here have their defaults.
        repetition_penalty: Of both ways.
        new_tokens: Length of an answer, at most.
        method: "dola", or another one by its name.
        other: Settings of another method, a JSON object.
    """

    model: str = "smollm2"
    prompt: str = ""
    chat: bool = True
    layers: str = "high"
    settings: Mapping[str, Any] = field(default_factory=dict)
    repetition_penalty: float = RECOMMENDED_PENALTY
    new_tokens: int = 40
    method: str = DoLaConfig.method
    other: str = ""

    def config(self) -> MethodConfig:
        """The settings of the method.

        Raises:
            ConfigError: A value that is not allowed.
        """
        settings = self.settings if self.method == DoLaConfig.method else self._other()
        return config_of({"method": self.method, "layers": self.layers.strip(), **settings})

    def _other(self) -> dict[str, Any]:
        """Settings of another method than DoLa."""
        try:
            found = loads(self.other.strip() or "{}")
        except ValueError as error:
            raise ConfigError(f"The settings are not JSON: {error}.", hint='write {"rate": 2}') from None
        if not isinstance(found, dict):
            raise ConfigError(f"The settings are {self.other!r}, not a JSON object.", hint='write {"rate": 2}')
        return found

    def check(self, limits: Limits) -> None:
        """Refuse what can be told without a model.

        Raises:
            InputError: No prompt, or a value out of range.
            ConfigError: A value of DoLa's settings that is not allowed.
        """
        self.config()
        if not self.prompt.strip():
            raise InputError("There is no prompt.", hint="type one, or pick an example")
        if len(self.prompt) > (longest := CHARACTERS_PER_TOKEN * limits.prompt_tokens):
            raise InputError(
                f"The prompt has {len(self.prompt):,} characters; allowed are {longest:,}.", hint="shorten the prompt"
            )
        if not 1 <= self.new_tokens <= limits.new_tokens:
            raise InputError(
                f"{self.new_tokens} new tokens are asked for; allowed are 1 to {limits.new_tokens}.",
                hint="or start the page with another --max-new-tokens",
            )
        if not (math.isfinite(self.repetition_penalty) and self.repetition_penalty > 0):
            raise InputError(
                f"The repetition penalty {self.repetition_penalty} is out of range; allowed is more than 0.",
                hint=f"1 is none, {RECOMMENDED_PENALTY} is what the paper uses",
            )

    def tokens(self, encoder: Encoder, limits: Limits) -> list[int]:
        """The prompt's tokens.

        Raises:
            InputError: More than the limits allow; a token that the model has no embedding for; a chat template that refuses
                the prompt, or loses its words.
        """
        ids = encoder.prompt(self.prompt, chat=self.chat and has_chat(encoder.tokenizer))
        if len(ids) > limits.prompt_tokens:
            raise InputError(
                f"The prompt has {len(ids):,} tokens, what the model's template adds included; "
                f"this page takes {limits.prompt_tokens:,}.",
                hint=f"shorten the prompt, or start the page with --max-prompt-tokens {len(ids)}",
            )
        return ids
