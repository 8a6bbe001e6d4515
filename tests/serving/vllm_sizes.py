"""Settings of tiny models for vLLM that vllm_matrix.py cannot guess, by model type."""

from __future__ import annotations

from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {"n_group": 1, "topk_group": 1, "num_experts_per_tok": 2},
    "qwen3_vl_moe": {"text_config": {"norm_topk_prob": True}},  # vLLM reads it, transformers' class has no such field
    "cohere2_vision": {"text_config": {"logit_scale": 1.0}},  # transformers' class for images omits the scale
}

GAIN = {"apertus": 1}
"""By how much weights are multiplied, if not by 3. Apertus squares its activations: with 3, random blocks overflow."""
