"""Tiny random vision-language models, and a prompt with an image for each."""

from __future__ import annotations

from typing import Any

import any_model
import torch
from families import spread_logits
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

IMAGE, SOFT_TOKENS = 400, 4
TEXT = {
    "vocab_size": 401, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16}
PATCHES = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 4, "patch_size": 4, "spatial_merge_size": 2}
ROPE = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
CONFIGS: dict[str, dict[str, Any]] = {
    "llava": {
        "vision_config": {"model_type": "clip_vision_model", **VISION, "patch_size": 8, "projection_dim": 32},
        "text_config": {"model_type": "llama", **TEXT},
        "image_token_index": IMAGE,
        "image_seq_length": SOFT_TOKENS,
        "vision_feature_layer": -1,
    },
    "qwen2_vl": {
        "vision_config": PATCHES,
        "text_config": {**TEXT, "rope_parameters": ROPE},
        "image_token_id": IMAGE,
        "vision_start_token_id": 399,
    },
    "gemma3": {
        "vision_config": {**VISION, "patch_size": 4, "model_type": "siglip_vision_model"},
        "text_config": {**TEXT, "sliding_window": 16},
        "mm_tokens_per_image": SOFT_TOKENS,
        "image_token_index": IMAGE,
        "image_token_id": IMAGE,
    },
}


def build(model_type: str) -> Any:
    """The model, its head scaled as `any_model` does."""
    config = CONFIG_MAPPING[model_type](**CONFIGS[model_type])
    model = any_model.build(config, auto=AutoModelForImageTextToText)
    spread_logits(model, prompt(model_type))
    return model


def prompt(model_type: str, seed: int = 0) -> dict[str, Any]:
    """Text around an image of SOFT_TOKENS tokens; another image with another seed."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([[5, 399, *[IMAGE] * SOFT_TOKENS, 33, 8, 91]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model_type == "qwen2_vl":
        pixels = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
        types = (ids == IMAGE).int()
        return {**inputs, "pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]]), "mm_token_type_ids": types}
    inputs["pixel_values"] = torch.randn(1, 3, 16, 16, generator=generator)
    if model_type == "gemma3":
        inputs["token_type_ids"] = (ids == IMAGE).long()
    return inputs
