"""A lens in vLLM: the tokens of `attach` with the same lens, and refusals when the server starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engines import Engine, Judge, save_tiny
from test_refusals import _config

import dola
from dola.errors import LensError
from dola.integrations.vllm import plugin

TEXTS = [f"The number {number} is written {number} times {number}." for number in range(40)]
PROMPTS = ["abc def", "Hello there", "1 2 3 4"]


@pytest.fixture(scope="module")
def judge(tiny_folder: Path) -> Judge:
    return Judge(tiny_folder)


@pytest.fixture(scope="module")
def lens(judge: Judge, tmp_path_factory: Any) -> str:
    path = tmp_path_factory.mktemp("lens") / "tiny.lens.safetensors"
    dola.fit_lens(judge.model, judge.tokenizer, TEXTS, layers=[1, 3, 5], tokens=1000).save(path)
    return str(path)


def test_tokens_are_those_of_attach(tiny_folder: Path, judge: Judge, lens: str):
    with Engine(tiny_folder, {"layers": [1, 3], "capture": [5], "lens": lens}) as engine:
        for layers in ([1, 3], [5]):
            expected = [judge.tokens(prompt, dola.DoLaConfig(layers, lens=lens)) for prompt in PROMPTS]
            assert engine.tokens(PROMPTS, {"dola_layers": layers}) == expected
        with pytest.raises(Exception, match="'dola_lens' is not an option"):
            engine.tokens(PROMPTS, {"dola_lens": lens})


def test_a_lens_of_another_model_is_refused_at_the_start(lens: str, tmp_path: Path):
    with pytest.raises(LensError, match="The lens belongs to"):
        Engine(save_tiny(tmp_path, seed=1), {"layers": [1, 3], "lens": lens})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"lens": "missing.safetensors"}, "does not exist"),
        ({"layers": [2]}, "has no map for layer 2"),
        ({"capture": "all"}, "has no map for layer 0"),
        ({"final_norm": False}, "contradict each other"),
    ],
)
def test_invalid_settings_are_refused_at_the_start(settings: dict[str, Any], words: str, tiny_folder: Path, lens: str):
    with pytest.raises(ValueError, match=words):
        _config(tiny_folder, {"dola": {"layers": [1, 3], "lens": lens, **settings}})


@pytest.mark.parametrize("adapters", [True, False])
def test_adapters_beside_a_lens_give_a_warning(adapters: bool, tiny_folder: Path, lens: str, monkeypatch: Any):
    """A lens is fitted on the model without adapters."""
    said: list[str] = []
    monkeypatch.setattr(plugin.logger, "warning", lambda text, *values: said.append(text % values))
    _config(tiny_folder, {"dola": {"layers": [1, 3], "lens": lens}}, enable_lora=adapters)
    assert ([f"Requests with an adapter are read through a lens that does not know it: {lens}."] if adapters else []) == said
