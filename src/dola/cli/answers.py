"""Decodes one prompt in several ways, with controls, for `dola compare` and the examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from dola.cli.columns import differs
from dola.cli.decoding import Decoding, pieces
from dola.cli.output import waiting
from dola.methods.names import RECOMMENDED_PENALTY

if TYPE_CHECKING:
    from dola.cli.backends import Backend
    from dola.methods.config import MethodConfig


@dataclass(frozen=True)
class Answer:
    """The answer of one way of decoding.

    Attributes:
        title: Title of its column.
        text: The answer alone, without special tokens.
        token_ids: Its tokens, including the one that ended it.
        pieces: The text of each token.
        differs: For each token, whether the greedy answer lacks a counterpart.
        finish_reason: "stop" or "length".
        repetition_penalty: The repetition penalty.
        config: DoLa's settings, or None if it is off.
        candidate_layers: The candidate layers of these settings in this model.
        prompt_tokens: Number of tokens in the prompt.
        seconds: Duration of the whole call.
    """

    title: str
    text: str
    token_ids: list[int]
    pieces: list[str]
    finish_reason: str
    repetition_penalty: float
    config: MethodConfig | None
    candidate_layers: list[int] | None
    prompt_tokens: int
    seconds: float
    differs: tuple[bool, ...] = ()

    @property
    def tokens_per_second(self) -> float:
        """New tokens per second of the whole call."""
        return len(self.token_ids) / self.seconds


def answers(
    backend: Backend,
    prompt: str,
    *,
    layers: Sequence[Any] = ("low", "high"),
    max_new_tokens: int = 50,
    repetition_penalty: float = RECOMMENDED_PENALTY,
    chat: bool | None = None,
) -> list[Answer]:
    """Answers of greedy decoding, of greedy decoding with the same repetition penalty, and of DoLa with each of `layers`.

    Args:
        backend: The loaded model.
        prompt: The text to continue or, with `chat`, the user's message.
        layers: One DoLa column for each: "high", "low", "all", indices, or the settings of a method.
        max_new_tokens: Maximum length of the answers.
        repetition_penalty: Repetition penalty of the control and of DoLa.
        chat: Whether to use the chat template; None uses it if the model has one.

    Raises:
        InputError, UsageError: The prompt has no tokens, or is too long for the model.
        ConfigError: This model does not have the layers.
    """
    configs = [backend.config(chosen) for chosen in layers]  # a mistake in the last column is reported before the first
    row = backend.encode(prompt, chat=backend.uses_chat(chat))
    backend.check_room([("", len(row))], max_new_tokens)
    penalised = Decoding(max_new_tokens, repetition_penalty)
    _warm_up(backend, row, [None, *configs])
    ways = [
        ("greedy", None, replace(penalised, repetition_penalty=1.0)),
        *((_title(config, repetition_penalty), config, penalised) for config in [None, *configs]),
    ]
    found: list[Answer] = []
    for title, config, decoding in ways:
        with waiting(f"{title} ({len(found) + 1} of {len(ways)})"):
            answer = _answer(backend, row, title, config, decoding)
        greedy = found[0].token_ids if found else answer.token_ids
        found.append(replace(answer, differs=differs(greedy, answer.token_ids)))
    return found


def _answer(backend: Backend, row: list[int], title: str, config: MethodConfig | None, decoding: Decoding) -> Answer:
    with backend.attached(config) as attachment:
        batch = backend.decode([row], decoding)
    (completion,) = batch.completions
    return Answer(
        **asdict(completion),
        title=title,
        pieces=pieces(backend.tokenizer, completion.token_ids),
        repetition_penalty=decoding.repetition_penalty,
        config=config,
        candidate_layers=None if attachment is None else list(attachment.layers),
        seconds=batch.seconds,
    )


def _warm_up(backend: Backend, row: list[int], configs: Sequence[MethodConfig | None]) -> None:
    """Decode two tokens of each kind, so that one-time costs do not count against the first column."""
    for config in (configs[0], configs[-1]):
        _answer(backend, row, "", config, Decoding(2, 1.0))


def _title(config: MethodConfig | None, repetition_penalty: float) -> str:
    if config is None:
        return f"greedy, penalty {repetition_penalty:g}"
    layers = config.layers if isinstance(config.layers, str) else ", ".join(map(str, config.layers))
    name = "DoLa" if config.method == "dola" else config.method
    return f"{name} {layers}, penalty {repetition_penalty:g}"
