"""The architectures of vLLM, and those that tests have run with DoLa. No list decides what is served: the proof does.

docs/serving.md explains the proof, docs/vllm-models.md has the table.
"""

from __future__ import annotations

TESTED = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GraniteForCausalLM",
    "Qwen3MoeForCausalLM",
    "Ministral3ForCausalLM",
    "Gemma4ForCausalLM",
    "GptOssForCausalLM",
    "Cohere2MoeForCausalLM",
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "MixtralForCausalLM",
    "Qwen2MoeForCausalLM",
    "OlmoeForCausalLM",
    "NemotronForCausalLM",
    "Ernie4_5_MoeForCausalLM",
    "Glm4ForCausalLM",
    "StableLmForCausalLM",
    "CohereForCausalLM",
    "Cohere2ForCausalLM",
    "Exaone4ForCausalLM",
    "GraniteMoeForCausalLM",
    "GPT2LMHeadModel",
    "GPTJForCausalLM",
    "BloomForCausalLM",
    "FalconForCausalLM",
)
"""Compared with dola.generate token by token in tests/serving, on tiny random models."""


def originals() -> dict[str, tuple[str, str]]:
    """Module and class of each architecture that vLLM itself brings and that generates text."""
    from vllm.model_executor.models import registry

    kinds = (registry._TEXT_GENERATION_MODELS, registry._MULTIMODAL_MODELS, registry._TRANSFORMERS_BACKEND_MODELS)
    places = {name: place for kind in kinds for name, place in kind.items()}
    places |= registry._TRANSFORMERS_SUPPORTED_MODELS
    return {
        name: (module if "." in module else f"vllm.model_executor.models.{module}", own)
        for name, (module, own) in ((name, place[:2]) for name, place in places.items())
        if "Embedding" not in own and "Classification" not in own
    }
