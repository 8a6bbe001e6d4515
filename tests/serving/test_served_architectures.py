"""Architectures beside Llama: tiny random models, in the engine and in transformers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engines import Engine, Judge, save_tiny

from dola import DoLaConfig, native
from dola.integrations.vllm.architectures import TESTED, originals

TWO_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}
"""For families whose heads are hidden_size / num_attention_heads wide: 32."""
EXPERTS = {**TWO_HEADS, "num_experts_per_tok": 2}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral": ("MistralForCausalLM", {}),
    "phi3": ("Phi3ForCausalLM", {}),
    "qwen2": ("Qwen2ForCausalLM", TWO_HEADS),
    "qwen3": ("Qwen3ForCausalLM", {}),
    "granite": ("GraniteForCausalLM", {}),
    "gemma2": ("Gemma2ForCausalLM", {}),
    "gemma3_text": ("Gemma3ForCausalLM", {}),
    "mixtral": ("MixtralForCausalLM", {}),
    "cohere": ("CohereForCausalLM", {}),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 64, "num_attention_heads": 2}),
}
SELDOM: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3_moe": ("Qwen3MoeForCausalLM", {**EXPERTS, "head_dim": 32, "num_experts": 4, "moe_intermediate_size": 32}),
    "ministral3": ("Ministral3ForCausalLM", {}),
    "gemma4_text": ("Gemma4ForCausalLM", {}),
    "gpt_oss": ("GptOssForCausalLM", {**EXPERTS, "head_dim": 32, "num_local_experts": 4}),
    "cohere2_moe": ("Cohere2MoeForCausalLM", {**EXPERTS, "num_experts": 4, "sliding_window": 64}),
    "gemma": ("GemmaForCausalLM", {}),
    "qwen2_moe": (
        "Qwen2MoeForCausalLM",
        {**EXPERTS, "num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32},
    ),
    "olmoe": ("OlmoeForCausalLM", {**EXPERTS, "num_experts": 4}),
    "nemotron": ("NemotronForCausalLM", {}),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32}),
    "glm4": ("Glm4ForCausalLM", {}),
    "stablelm": ("StableLmForCausalLM", TWO_HEADS),
    "cohere2": ("Cohere2ForCausalLM", {"sliding_window": 64}),
    "exaone4": ("Exaone4ForCausalLM", {}),
    "granitemoe": ("GraniteMoeForCausalLM", {**EXPERTS, "num_local_experts": 4}),
    "gptj": ("GPTJForCausalLM", {"n_embd": 64, "num_attention_heads": 2}),
    "bloom": ("BloomForCausalLM", {"num_attention_heads": 2}),
    "falcon": ("FalconForCausalLM", {"num_attention_heads": 2, "num_key_value_heads": None, "head_dim": None}),
}
ALL = FAMILIES | SELDOM
WAYS = [
    pytest.param(family, eager, id=family if eager else f"{family}, compiled", marks=[] if often else [pytest.mark.slow])
    for family in ALL
    for eager, often in ((True, family in FAMILIES), (False, family == "gpt2"))
]
PROMPTS = ["abc def", "Hello there", "1 2 3 4", "xyz"]


@pytest.mark.parametrize(("family", "eager"), WAYS)
def test_tokens_are_those_of_transformers(family: str, eager: bool, tmp_path: Path):
    _, sizes = ALL[family]
    folder = save_tiny(tmp_path / family, family, **sizes)
    judge = Judge(folder)
    with Engine(folder, {"layers": "high", "capture": "all", "default": "off"}, enforce_eager=eager) as engine:
        plain = [judge.tokens(prompt) for prompt in PROMPTS]
        assert engine.tokens(PROMPTS) == plain
        for layers in ("high", "low", [2, 4], [0]):
            expected = [judge.tokens(prompt, layers) for prompt in PROMPTS]
            assert expected != plain  # or the next line would hold of anything
            assert engine.tokens(PROMPTS, {"dola_layers": layers}) == expected, layers
        reference = {"dola_layers": "high", "dola_divergence": "reference", "dola_final_norm": False}
        expected = [judge.tokens(prompt, DoLaConfig.reference("high")) for prompt in PROMPTS]
        assert engine.tokens(PROMPTS, reference) == expected


def test_the_list_of_tested_architectures():
    """The list names exactly the architectures that tests run, and vLLM has each of them."""
    assert set(TESTED) == {architecture for architecture, _ in ALL.values()} | {"LlamaForCausalLM"}
    assert set(TESTED) <= set(originals())


@pytest.mark.skipif(native.why_not() is not None, reason=f"no compiled kernel here: {native.why_not()}")
def test_the_kernel_reads_heads_that_are_a_product_and_no_more():
    from dola.integrations.vllm.readout import _plain_weight

    def weight(*, bias: Any = None, **after: Any) -> Any:
        method = type("UnquantizedEmbeddingMethod", (), {})()
        head = SimpleNamespace(weight=torch.randn(72, 64), quant_method=method, bias=bias)
        said = SimpleNamespace(**{"soft_cap": None, "scale": 1.0, "org_vocab_size": 70, **after})
        return _plain_weight(SimpleNamespace(head=head, processor=said))

    assert weight().shape == (70, 64)
    assert weight(soft_cap=30.0) is weight(scale=1.001) is weight(bias=torch.zeros(70)) is None
