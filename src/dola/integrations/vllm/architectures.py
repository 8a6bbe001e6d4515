"""Which architectures of vLLM are decoded with DoLa: those whose class can hand out the residual stream between blocks.

In vLLM that is what SupportsEagle3 promises (`aux_hidden_states`). All in the table are made of the same parts: a decoder with
a final `norm`, an `lm_head`, a `logits_processor`. docs/serving.md says which of them the tests run.
"""

TESTED = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "GraniteForCausalLM",
)
"""Held against dola.generate by tests/serving, on tiny random models, token by token."""

UNTESTED = (
    "AfmoeForCausalLM",
    "ApertusForCausalLM",
    "Cohere2MoeForCausalLM",
    "Ernie4_5ForCausalLM",
    "Gemma4ForCausalLM",
    "GptOssForCausalLM",
    "InternLM3ForCausalLM",
    "IQuestCoderForCausalLM",
    "LLaMAForCausalLM",
    "Llama4ForCausalLM",
    "MiMoForCausalLM",
    "MiniCPMForCausalLM",
    "MiniMaxM2ForCausalLM",
    "Ministral3ForCausalLM",
    "Plamo3ForCausalLM",
    "Qwen3MoeForCausalLM",
    "Step1ForCausalLM",
    "TeleChat3ForCausalLM",
)
"""Of the same build, served with a warning at start-up: no test has run them."""

ARCHITECTURES = (*TESTED, *UNTESTED)
