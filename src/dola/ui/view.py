"""The content of the page, as data and as HTML whose texts are visible and have no effect."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dola.methods.config import DoLaConfig
from dola.tracing.data import LayerTrace
from dola.tracing.live import Progress


@dataclass(frozen=True)
class Answer:
    """The text of one way of decoding so far.

    Attributes:
        text: The whole text.
        common: Number of characters at its beginning that the other way's text shares.
        tokens: Number of tokens.
    """

    text: str = ""
    common: int = 0
    tokens: int = 0


@dataclass(frozen=True)
class View:
    """The content of the page at one moment.

    Attributes:
        status: A short description of the current activity.
        error, hint: The error and how to fix it; "" without an error.
        answers: The answers by way of decoding, "greedy" and "dola".
        traces: The available traces.
        running: Whether more views will follow.
        method: Name of the method beside greedy decoding, for people.
    """

    status: str = ""
    error: str = ""
    hint: str = ""
    answers: tuple[Answer, Answer] = (Answer(), Answer())
    traces: tuple[LayerTrace, ...] = ()
    running: bool = False
    method: str = DoLaConfig.title

    def failed(self, error: str, hint: str = "") -> View:
        """The same view with an error, and no longer running."""
        return replace(self, status="", error=error, hint=hint, running=False)


WAYS = ("greedy", "dola")
"""The ways of decoding, side by side in this order."""


def answers(tokenizer: Any, progress: Sequence[Progress | None]) -> tuple[Answer, Answer]:
    """The texts of both ways, and where the second diverges from the first."""
    ids = [() if each is None else each.token_ids for each in progress]
    pairs = list(zip(*ids, strict=False))
    common = next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), len(pairs))
    beginning = tokenizer.decode(ids[1][:common], skip_special_tokens=True)
    made = []
    for tokens in ids:
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        shared = len(beginning) if text.startswith(beginning) else 0  # a character may end after the shared tokens
        made.append(Answer(text, shared, len(tokens)))
    return made[0], made[1]


def answer_html(answer: Answer, *, running: bool, mark: bool) -> str:
    """An answer as HTML; with `mark` it is marked from where it diverges from the other."""
    if not answer.text and not running:
        return '<p class="dola-answer dola-empty">Nothing yet.</p>'
    common, own = (html.escape(part) for part in (answer.text[: answer.common], answer.text[answer.common :]))
    marked = f"<mark>{own}</mark>" if own and mark else own
    caret = '<span class="dola-caret" aria-hidden="true"></span>' if running else ""
    return f'<p class="dola-answer" aria-busy="{str(running).lower()}" dir="auto">{common}{marked}{caret}</p>'


def message_html(view: View) -> str:
    """The line with the status or the error."""
    if view.error:
        hint = f"<span>{html.escape(view.hint[:1].upper() + view.hint[1:])}</span>" if view.hint else ""
        return f'<div class="dola-message dola-error" role="alert"><strong>{html.escape(view.error)}</strong>{hint}</div>'
    return f'<div class="dola-message" role="status">{html.escape(view.status)}</div>'
