"""What a case of every_request.py is, and the options and words that cases share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from asked import World

PROMPT, CHAT = "abc def", [{"role": "user", "content": "What is it?"}]
OFF, LOW, PAIR = {"dola_layers": "off"}, {"dola_layers": "low"}, {"dola_layers": [2, 4]}
WAYS: dict[str, tuple[dict[str, Any], Any]] = {
    "no options": ({}, "high"),
    "off": (OFF, None),
    "low": (LOW, "low"),
    "a list": (PAIR, [2, 4]),
}
"""Options of a request, and the layers that the judge contrasts."""

HALF = "\N{REPLACEMENT CHARACTER}"
DROPPED = "drops a request's DoLa options in vLLM"
IGNORED = "was given where vLLM ignores it"
OWN = "are the model's own"


@dataclass(frozen=True)
class Case:
    """A request.

    Attributes:
        door: The endpoint.
        asked: What is asked for.
        outcome: What happens, for the page.
        run: Sends it and asserts the outcome.
    """

    door: str
    asked: str
    outcome: str
    run: Callable[[World], None]


CASES: list[Case] = []


def case(door: str, asked: str, outcome: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    """Add a function to the cases."""

    def add(run: Callable[[World], None]) -> Callable[[World], None]:
        CASES.append(Case(door, asked, outcome, run))
        return run

    return add


def refused(door: str, asked: str, words: str, run: Callable[[World], Any]) -> None:
    """Add a case that must return HTTP 400 with these words."""

    def fails(world: World) -> None:
        assert words in world.error(lambda: run(world))

    CASES.append(Case(door, asked, f"400: `...{words}...`", fails))


def every_way() -> Iterator[tuple[dict[str, Any], Any]]:
    return iter(WAYS.values())


COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"
EQUAL = "tokens of `dola.generate`, for all four options"
