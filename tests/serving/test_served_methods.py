"""Each method in one engine: tokens of `dola.generate` with the same settings, whatever else runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from each_method import METHODS, each_method
from engines import Engine, Judge, options_for

import dola

PROMPTS = ["abc def", "Hello there", "1 2 3 4", "xyz", "What is it?", "the end"]


@pytest.fixture(scope="module")
def judge(tiny_folder: Path) -> Judge:
    return Judge(tiny_folder)


@pytest.fixture(scope="module")
def expected(judge: Judge) -> dict[str, list[list[int]]]:
    """What transformers decodes, by method."""
    found = {name: [judge.tokens(prompt, config) for prompt in PROMPTS] for name, config in METHODS.items()}
    found["plain"] = [judge.tokens(prompt) for prompt in PROMPTS]
    assert len({str(tokens) for tokens in found.values()}) == len(found)  # or the tests would hold of anything
    return found


@each_method
def test_all_rows_of_a_batch(name: str, tiny_engine: Engine, expected: Any):
    assert tiny_engine.tokens(PROMPTS, options_for(METHODS[name])) == expected[name]


def test_rows_of_all_methods_in_one_batch(tiny_engine: Engine, expected: Any):
    """Each prompt in each way, neighbors always another."""
    ways = {"plain": None, **METHODS}
    rows = [(i, name) for i in range(len(PROMPTS)) for name in ways]
    found = tiny_engine.tokens([PROMPTS[i] for i, _ in rows], [options_for(ways[name]) for _, name in rows])
    assert found == [expected[name][i] for i, name in rows]


@each_method
def test_settings_reach_the_method(name: str, tiny_engine: Engine, judge: Judge, expected: Any):
    other = {
        "dola": dola.DoLaConfig([2, 4], strength=0.5, relative_top=0.0),
        "confident": dola.ConfidentConfig([1, 2, 3, 4, 5], final_norm=False),
        "sled": dola.SLEDConfig([1, 3], rate=1.0, steps=2),
        "delta": dola.DeLTaConfig([2, 4, 5], beyond=3.0, relative_top=0.0),
    }[name]
    wanted = [judge.tokens(prompt, other) for prompt in PROMPTS]
    assert wanted != expected[name]
    assert tiny_engine.tokens(PROMPTS, options_for(other)) == wanted


@each_method
def test_bans_leave_the_rest(name: str, tiny_engine: Engine, judge: Judge):
    """A banned first choice: the method's next one, or the mature order where it can choose no other."""
    for prompt in PROMPTS[:3]:
        first = judge.tokens(prompt, METHODS[name])[0]
        expected = judge.tokens(prompt, METHODS[name], bad_words_ids=[[first]], max_new_tokens=1)
        allowed = [token for token in range(judge.model.config.vocab_size) if token != first]
        found = tiny_engine.tokens([prompt], options_for(METHODS[name]), allowed_token_ids=allowed, max_tokens=1)
        assert found == [expected]


def test_an_engine_that_decodes_with_a_method_by_default(tiny_folder: Path, expected: Any):
    config = METHODS["sled"]
    with Engine(tiny_folder, {"method": "sled", "rate": config.rate, "scale": config.scale}) as engine:
        assert engine.tokens(PROMPTS) == expected["sled"]
        assert engine.tokens(PROMPTS, {"dola_layers": "off"}) == expected["plain"]
        assert engine.tokens(PROMPTS, options_for(METHODS["delta"])) == expected["delta"]
