"""Quantized weights: compressed-tensors' int8, weights and activations, with a plain head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from compressed import CHANNEL8, TOKEN, save_compressed
from engines import Engine, Judge
from test_identity import PROMPTS

import dola

WAYS = {"high": "high", "low": "low", "list": [2, 4]}
AGREEMENT = 0.8
"""vLLM's int8 product rounds otherwise than transformers', and tiny random models are full of near ties."""


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantised") / "llama"
    model, tokenizer = dola.load(tiny_folder, dtype="float32")
    save_compressed(model, out, CHANNEL8, TOKEN)
    tokenizer.save_pretrained(out)
    return out


def _first(tokens: list[list[int]]) -> list[int]:
    return [each[0] for each in tokens]


@pytest.mark.slow
def test_quantised_weights(folder: Path, tiny_folder: Path):
    """Plain requests decode as without DoLa; the first token with it is mostly transformers', in every way, and not plain."""
    judge = Judge(folder)
    assert [judge.tokens(prompt) for prompt in PROMPTS] != [Judge(tiny_folder).tokens(prompt) for prompt in PROMPTS]
    with Engine(folder, None) as engine:
        plain = engine.tokens(PROMPTS)
    found: dict[str, Any] = {}
    with Engine(folder, {"layers": "high", "capture": "all", "default": "off"}) as engine:
        assert engine.tokens(PROMPTS) == plain
        for way, layers in WAYS.items():
            found[way] = _first(engine.tokens(PROMPTS, {"dola_layers": layers}))
    for way, layers in WAYS.items():
        expected = _first([judge.tokens(prompt, layers) for prompt in PROMPTS])
        agree = sum(a == b for a, b in zip(found[way], expected, strict=True)) / len(PROMPTS)
        beside = sum(a == b for a, b in zip(found[way], _first(plain), strict=True)) / len(PROMPTS)
        print(way, agree, beside)
        assert agree >= AGREEMENT > beside
