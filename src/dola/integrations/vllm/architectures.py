"""Which architectures of vLLM are decoded with DoLa: those whose residual stream between blocks can be had.

Some classes hand it out: in vLLM that is what SupportsEagle3 promises (`aux_hidden_states`). For those listed as carried, the
blocks take it to the final norm (carried.py). All are made of the same parts: a decoder with blocks and a final norm, a head, a
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
"""Hand out no layers. Blocks pass on hidden states and a residual: the residual stream is their sum."""

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
"""Hand out no layers. Blocks pass on the residual stream itself; a residual beside it, where there is one, is in it already."""

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
"""Held against dola.generate by tests/serving, on tiny random models, token by token."""

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
"""Of the same build, served with a warning at start-up: no test has run them."""

ARCHITECTURES = (*TESTED, *UNTESTED)
