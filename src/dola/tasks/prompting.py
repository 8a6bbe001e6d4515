"""Prompts with demonstrations, and where an answer ends.

The demonstrations are in `prompts/`, exactly as models read them; `prompts/SOURCES.md` gives their sources.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files


@cache
def demonstrations(name: str) -> str:
    """The demonstrations of a task ("truthfulqa", "strategyqa", "gsm8k"), with the blank line that follows them."""
    text = (files("dola.tasks") / "prompts" / f"{name}.txt").read_text(encoding="utf-8")
    return text.strip("\n") + "\n\n"


def few_shot_prompt(name: str, question: str) -> str:
    """Demonstrations, then the question in the same form. Ends with "A:", so that an answer starts with a space."""
    return f"{demonstrations(name)}Q: {question}\nA:"


def before_stop(text: str, stop: Sequence[str]) -> str:
    """Generated text up to the first stop string, without the white space around it."""
    ends = [position for word in stop if (position := text.find(word)) >= 0]
    return text[: min(ends, default=len(text))].strip()
