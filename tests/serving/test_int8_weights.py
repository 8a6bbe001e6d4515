"""Quantised weights: compressed-tensors' int8, weights and activations, with a plain head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import test_identity
from engines import Engine, Judge

import dola

WAYS = {"high": "high", "low": "low", "list": [2, 4]}
AGREEMENT = 0.8
"""vLLM's int8 product rounds otherwise than transformers', and tiny random models are full of near ties."""


def _quantise(folder: Path, out: Path) -> None:
    """The model of a folder with int8 weights, a scale for each output channel; activations by token, when they are known."""
    from compressed_tensors import compressors, quantization

    model, tokenizer = dola.load(folder, dtype="float32")
    weights = quantization.QuantizationArgs(num_bits=8, type="int", strategy="channel")
    activations = quantization.QuantizationArgs(dynamic=True, num_bits=8, type="int", strategy="token")
    scheme = quantization.QuantizationScheme(targets=["Linear"], weights=weights, input_activations=activations)
    form = "int-quantized"
    settings = {"config_groups": {"all": scheme}, "ignore": ["lm_head"], "format": form, "quantization_status": "frozen"}
    quantization.apply_quantization_config(model, quantization.QuantizationConfig(**settings))
    for module in model.modules():
        if hasattr(module, "weight_scale"):
            module.weight_scale.data.copy_(module.weight.abs().amax(-1, keepdim=True) / 127)
    compressor = compressors.ModelCompressor.from_pretrained_model(model, form)
    compressor.compress_model(model)
    model.save_pretrained(out)
    compressor.update_config(out)
    tokenizer.save_pretrained(out)


@pytest.fixture(scope="module")
def folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantised") / "llama"
    _quantise(tiny_folder, out)
    return out


def _first(tokens: list[list[int]]) -> list[int]:
    return [each[0] for each in tokens]


@pytest.mark.slow
def test_quantised_weights(folder: Path, tiny_folder: Path):
    """Plain requests decode as without DoLa; the first token with it is mostly transformers', in every way, and not plain."""
    prompts = test_identity.PROMPTS
    judge = Judge(folder)
    assert [judge.tokens(prompt) for prompt in prompts] != [Judge(tiny_folder).tokens(prompt) for prompt in prompts]
    with Engine(folder, None) as engine:
        plain = engine.tokens(prompts)
    found: dict[str, Any] = {}
    with Engine(folder, {"layers": "high", "capture": "all", "default": "off"}) as engine:
        assert engine.tokens(prompts) == plain
        for way, layers in WAYS.items():
            found[way] = _first(engine.tokens(prompts, {"dola_layers": layers}))
    for way, layers in WAYS.items():
        expected = _first([judge.tokens(prompt, layers) for prompt in prompts])
        agree = sum(a == b for a, b in zip(found[way], expected, strict=True)) / len(prompts)
        beside = sum(a == b for a, b in zip(found[way], _first(plain), strict=True)) / len(prompts)
        print(way, agree, beside)
        assert agree >= AGREEMENT > beside
