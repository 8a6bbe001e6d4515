"""A real model, in float32: the engine decodes what dola.generate decodes, token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from each_method import METHODS, each_method
from engines import Judge, options_for
from servers import Server
from setups import decode

PROMPTS = [
    "The capital of Washington State is",
    "The Declaration of Independence was signed on",
    "Water boils at a temperature of",
    "Who wrote Hamlet?",
    "The largest planet of the solar system is",
    "Photosynthesis is the process by which",
    "def fibonacci(n):",
    "In 1969, the first human",
    "My favourite colour is",
    "The Great Wall of China was built",
    "Q: What is the chemical symbol for gold?\nA:",
    "A triangle has three",
    "The author of Pride and Prejudice is",
    "To make a cup of tea, first",
    "The speed of light is",
    "Once upon a time, there was a",
    "The French Revolution began in",
    "If 3 apples cost 6 dollars, one apple costs",
    "The human heart has",
    "The river Nile flows through",
]
WAYS = {"plain": None, "high": "high", "low": "low", "list": [24, 28]}


@pytest.fixture(scope="module")
def judge(real_folder: Any) -> Judge:
    return Judge(real_folder)


@pytest.fixture(scope="module")
def expected(judge: Judge) -> dict[tuple[str, float], list[list[int]]]:
    """What transformers decodes, for every way and penalty."""
    return {
        (way, penalty): [judge.tokens(prompt, layers, repetition_penalty=penalty) for prompt in PROMPTS]
        for way, layers in WAYS.items()
        for penalty in (1.0, 1.2)
    }


def _mixed() -> list[str]:
    """A way for each prompt, so that neighbors in a batch differ."""
    return [list(WAYS)[i % len(WAYS)] for i in range(len(PROMPTS))]


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_are_those_of_transformers(way: str, penalty: float, real_engine: Any, expected: Any):
    assert real_engine.tokens(PROMPTS, options_for(WAYS[way]), repetition_penalty=penalty) == expected[way, penalty]


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_neighbours_of_a_batch_decode_their_own_way(penalty: float, real_engine: Any, expected: Any):
    ways = _mixed()
    found = real_engine.tokens(PROMPTS, [options_for(WAYS[way]) for way in ways], repetition_penalty=penalty)
    assert found == [expected[way, penalty][i] for i, way in enumerate(ways)]


@each_method
def test_methods(name: str, real_engine: Any, judge: Judge):
    config, prompts = METHODS[name], PROMPTS[:3]
    found = real_engine.tokens(prompts, options_for(config), max_tokens=8, repetition_penalty=1.2)
    assert found == [judge.tokens(prompt, config, max_new_tokens=8, repetition_penalty=1.2) for prompt in prompts]


def test_one_at_a_time_is_as_in_a_batch(real_engine: Any, expected: Any):
    for i, prompt in enumerate(PROMPTS[:4]):
        assert real_engine.tokens([prompt], {"dola_layers": "high"}) == [expected["high", 1.0][i]]


def test_the_ways_differ(expected: Any):
    """Otherwise the tests above would pass with any decoding."""
    for way in ("high", "low", "list"):
        assert expected[way, 1.0] != expected["plain", 1.0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["compiled", "pipeline parallel, compiled", "runner V2"])  # nine heads cannot be halved
def test_other_ways_of_running_the_engine(name: str, real_folder: Path, expected: Any):
    ways = _mixed()
    each = [(options_for(WAYS[way]), penalty) for way, penalty in expected]
    each.append(([options_for(WAYS[way]) for way in ways], 1.2))
    requests = [{"prompts": PROMPTS, "options": o, "sampling": {"repetition_penalty": penalty}} for o, penalty in each]
    mixed = [expected[way, 1.2][i] for i, way in enumerate(ways)]
    assert decode(real_folder, name, requests) == [*expected.values(), mixed]


@pytest.mark.slow
def test_answers_over_http(real_folder: Path, expected: Any, tmp_path: Path):
    server = Server(real_folder, tmp_path / "log.txt", "--layers", "high", "--capture", "all", "--default", "off")
    try:
        for (way, penalty), tokens in expected.items():
            found = [server.tokens(prompt, WAYS[way], repetition_penalty=penalty) for prompt in PROMPTS]
            assert found == tokens, (way, penalty)
    finally:
        server.stop()
