"""Architectures beside Llama: tiny random models, in the engine and in transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from engines import Engine, Judge, save_tiny

from dola.integrations.vllm.architectures import ARCHITECTURES, TESTED, UNTESTED

FAMILIES = {
    "mistral": "MistralForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "granite": "GraniteForCausalLM",
}
PROMPTS = ["abc def", "Hello there", "1 2 3 4", "xyz"]


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_of_transformers(family: str, tmp_path: Path):
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1} if family == "qwen2" else {}  # it has no head_dim of its own
    folder = save_tiny(tmp_path / family, family, **heads)
    judge = Judge(folder)
    with Engine(folder, {"layers": "high", "capture": "all", "default": "off"}) as engine:
        for layers in (None, "high", "low", [2, 4]):
            options: dict[str, Any] = {} if layers is None else {"dola_layers": layers}
            assert engine.tokens(PROMPTS, options) == [judge.tokens(prompt, layers) for prompt in PROMPTS], layers
        reference = {"dola_layers": "high", "dola_divergence": "reference", "dola_final_norm": False}
        expected = [judge.tokens(prompt, _reference()) for prompt in PROMPTS]
        assert engine.tokens(PROMPTS, reference) == expected


def _reference() -> Any:
    from dola import DoLaConfig

    return DoLaConfig.reference("high")


def test_the_table_of_architectures():
    """Every one in it has a class in this vLLM that hands out layers, and those called tested are."""
    from vllm.model_executor.models.interfaces import supports_eagle3

    from dola.integrations.vllm import models

    assert set(TESTED) == {*FAMILIES.values(), "LlamaForCausalLM"}
    assert not set(TESTED) & set(UNTESTED)
    for architecture in ARCHITECTURES:
        assert supports_eagle3(getattr(models, architecture)), architecture
