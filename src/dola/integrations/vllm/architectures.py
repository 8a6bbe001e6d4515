"""The architectures of vLLM that DoLa supports: those whose residual stream between blocks is accessible.

Some classes return it, which SupportsEagle3 means in vLLM (`aux_hidden_states`). In those listed as carried, the blocks pass
it to the final norm (carried.py). All have the same parts: a decoder with blocks and a final norm, a head, a
`logits_processor`. docs/serving.md says which of them the tests run.
"""

CARRIED_APART = (
    "GemmaForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "MixtralForCausalLM",
    "Qwen2MoeForCausalLM",
    "OlmoeForCausalLM",
    "NemotronForCausalLM",
    "Ernie4_5_MoeForCausalLM",
    "Glm4ForCausalLM",
)
"""Classes that do not return layers. Their blocks pass on hidden states and a residual: the residual stream is the sum."""

CARRIED_WHOLE = (
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
"""Classes that do not return layers. Their blocks pass on the residual stream itself, which includes any extra residual."""

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
    *CARRIED_APART,
    *CARRIED_WHOLE,
)
"""Compared with dola.generate token by token in tests/serving, on tiny random models."""

UNTESTED = (
    "AfmoeForCausalLM",
    "InternLM3ForCausalLM",
    "IQuestCoderForCausalLM",
    "LLaMAForCausalLM",
    "Llama4ForCausalLM",
    "MiniMaxM2ForCausalLM",
    "Step1ForCausalLM",
    "TeleChat3ForCausalLM",
)
"""The same structure, but no test has run them: served with a warning at start-up."""

ARCHITECTURES = (*TESTED, *UNTESTED)
