"""The architectures of vLLM that tests have run with DoLa. The list decides nothing: any model that passes the proof is served.

docs/serving.md explains the proof, docs/vllm-models.md has the table.
"""

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
