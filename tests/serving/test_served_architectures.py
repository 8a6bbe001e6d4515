"""Architectures beside Llama: tiny random models, in the engine and in transformers."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from engines import Engine, Judge, save_tiny

from dola import DoLaConfig, native
from dola.errors import CaptureError, ModelError
from dola.integrations.vllm.architectures import ARCHITECTURES, CARRIED_APART, CARRIED_WHOLE, TESTED, UNTESTED

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


def test_the_table_of_architectures():
    """Every one in it has a class in this vLLM; it hands out layers, or its blocks carry them; those called tested are."""
    from vllm.model_executor.models.interfaces import supports_eagle3

    from dola.integrations.vllm import models

    assert set(TESTED) == {architecture for architecture, _ in ALL.values()} | {"LlamaForCausalLM"}
    assert not set(TESTED) & set(UNTESTED)
    carried = {*CARRIED_APART, *CARRIED_WHOLE}
    assert carried <= set(ARCHITECTURES)
    for architecture in ARCHITECTURES:
        assert supports_eagle3(getattr(models, architecture)) is (architecture not in carried), architecture


def test_a_pipeline_of_a_class_that_sends_no_layers_on_is_refused(monkeypatch: pytest.MonkeyPatch):
    """Granite's stages number their layers anew: those that another stage has would be contrasted."""
    from vllm.model_executor.models import granite

    from dola.integrations.vllm.carried import hand_out

    monkeypatch.setattr("vllm.distributed.get_pp_group", lambda: SimpleNamespace(world_size=2))
    with pytest.raises(ModelError, match="cannot be decoded with DoLa in a pipeline"):
        hand_out(SimpleNamespace(model=object.__new__(granite.GraniteModel)), (2,), 64)


def test_the_first_block_leaves_layer_0_as_it_is():
    """On GPUs vLLM's norms write over what they are given; here a block does."""
    from dola.integrations.vllm.carried import spare_embeddings

    class Block(torch.nn.Module):
        def forward(self, positions: Any, hidden_states: Any, residual: Any = None) -> Any:
            return hidden_states.add_(positions[:, None]), residual

    decoder = SimpleNamespace(layers=[Block()], start_layer=0)
    spare_embeddings(SimpleNamespace(model=decoder))
    positions, hidden = torch.arange(3), torch.zeros(3, 4)
    for found, _ in (decoder.layers[0](positions, hidden, None), decoder.layers[0](positions=positions, hidden_states=hidden)):
        assert found[:, 0].tolist() == [0, 1, 2]
        assert not hidden.any()


def test_captures_of_earlier_stages_come_first():
    """Three stages of a pipeline that capture two layers, none and one."""
    from vllm.sequence import IntermediateTensors

    from dola.integrations.vllm.carried import CAPTURES, with_earlier_captures

    rows = [torch.full((3, 4), float(layer)) for layer in range(5)]
    sent = with_earlier_captures(
        IntermediateTensors({"hidden_states": (rows[2], (rows[0], rows[1])), "residual": rows[3]}), None
    )
    assert torch.equal(sent["hidden_states"], rows[2])
    assert torch.equal(sent["residual"], rows[3])
    sent = with_earlier_captures(IntermediateTensors({"hidden_states": (rows[3], ())}), sent)
    named = {"hidden_states": rows[2], "aux_hidden_states_0": rows[0], "aux_hidden_states_1": rows[1]}
    assert torch.equal(with_earlier_captures(IntermediateTensors(named), None)[CAPTURES], sent[CAPTURES])
    assert torch.equal(sent[CAPTURES], torch.cat(rows[:2], -1))
    hidden, layers = with_earlier_captures((rows[4], (rows[3],)), sent)
    assert torch.equal(torch.cat([hidden, *layers], -1), torch.cat([rows[4], *rows[:2], rows[3]], -1))


def test_rows_that_lack_a_layer_are_refused():
    from dola.integrations.vllm.readout import VLLMModel
    from dola.serving.decoder import Decoder
    from dola.serving.settings import Served

    served = Served.of({"layers": [1, 2]}, num_layers=4, tied=False)
    model = SimpleNamespace(logits_processor=SimpleNamespace(), lm_head=SimpleNamespace())
    decoder = Decoder(VLLMModel(model, None), served, SimpleNamespace(), 4)
    with pytest.raises(CaptureError, match="rows of 8 numbers instead of 3 layers of 4"):
        decoder.scores(torch.zeros(2, 8))


@pytest.mark.skipif(native.why_not() is not None, reason=f"no compiled kernel here: {native.why_not()}")
def test_the_kernel_reads_heads_that_are_a_product_and_no_more():
    from dola.integrations.vllm.readout import _plain_weight

    def weight(*, bias: Any = None, **after: Any) -> Any:
        method = type("UnquantizedEmbeddingMethod", (), {})()
        head = SimpleNamespace(weight=torch.randn(72, 64), quant_method=method, bias=bias)
        said = SimpleNamespace(**{"soft_cap": None, "scale": 1.0, "org_vocab_size": 70, **after})
        return _plain_weight(SimpleNamespace(lm_head=head, logits_processor=said))

    assert weight().shape == (70, 64)
    assert weight(soft_cap=30.0) is weight(scale=1.001) is weight(bias=torch.zeros(70)) is None
