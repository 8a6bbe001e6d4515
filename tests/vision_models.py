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
    "qwen2_5_vl": {
        "vision_config": {
            **PATCHES,
            "intermediate_size": 32,
            "out_hidden_size": 32,
            "window_size": 16,
            "fullatt_block_indexes": [1],
        },
        "text_config": {**TEXT, "rope_parameters": ROPE},
        "image_token_id": IMAGE,
        "vision_start_token_id": 399,
    },
    "idefics3": {
        "vision_config": {**VISION, "patch_size": 4},
        "text_config": {"model_type": "llama", **TEXT},
        "image_token_id": IMAGE,
        "scale_factor": 2,
    },
    "gemma3": {
        "vision_config": {**VISION, "patch_size": 4, "model_type": "siglip_vision_model"},
        "text_config": {**TEXT, "sliding_window": 16},
        "mm_tokens_per_image": SOFT_TOKENS,
        "image_token_index": IMAGE,
        "image_token_id": IMAGE,
    },
}

QFORMER = {"vocab_size": 401, "encoder_hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
QUERIES: dict[str, Any] = {
    "vision_config": {**VISION, "patch_size": 8},
    "qformer_config": {**QFORMER, "intermediate_size": 64},
    "text_config": {"model_type": "llama", **TEXT},
    "num_query_tokens": SOFT_TOKENS,
    "image_token_index": IMAGE,
}
BY_A_PART: dict[str, dict[str, Any]] = {
    "blip-2": QUERIES,
    "instructblip": QUERIES,
    "instructblipvideo": {**QUERIES, "video_token_index": IMAGE},
    "kosmos-2": {
        "vision_config": {**VISION, "patch_size": 8},
        "text_config": {
            "vocab_size": 401, "embed_dim": 32, "layers": 4, "ffn_dim": 64, "attention_heads": 4,
            "max_position_embeddings": 256,
        },
        "latent_query_num": SOFT_TOKENS,
    },
}  # fmt: skip
"""Models whose `generate` is that of a part of theirs, in which the language model is."""
PARTS = dict.fromkeys(BY_A_PART, "language_model") | {"kosmos-2": "text_model"}


def build(model_type: str) -> Any:
    """The model, its head scaled as `any_model` does."""
    config = CONFIG_MAPPING[model_type](**{**CONFIGS, **BY_A_PART}[model_type])
    model = any_model.build(config, auto=AutoModelForImageTextToText)
    if model_type in PARTS:
        getattr(model, PARTS[model_type]).generation_config.eos_token_id = None
    spread_logits(model, prompt(model_type))
    return model


def prompt(model_type: str, seed: int = 0) -> dict[str, Any]:
    """Text around an image of SOFT_TOKENS tokens; another image with another seed."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.tensor([[5, 399, *[IMAGE] * SOFT_TOKENS, 33, 8, 91]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model_type in ("qwen2_vl", "qwen2_5_vl"):
        pixels = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
        types = (ids == IMAGE).int()
        return {**inputs, "pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 4]]), "mm_token_type_ids": types}
    inputs["pixel_values"] = torch.randn(1, 3, 16, 16, generator=generator)
    if model_type == "instructblipvideo":
        ids = torch.tensor([[*[IMAGE] * 4 * SOFT_TOKENS, 33, 8, 91]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        inputs["pixel_values"] = torch.randn(1, 4, 3, 16, 16, generator=generator)
    if "instructblip" in model_type:
        inputs |= {"qformer_input_ids": torch.tensor([[3, 4]]), "qformer_attention_mask": torch.ones(1, 2, dtype=torch.long)}
    if model_type == "idefics3":
        inputs["pixel_values"] = inputs["pixel_values"][None]
    if model_type == "kosmos-2":
        inputs["image_embeds_position_mask"] = (ids == IMAGE).long()
    if model_type == "gemma3":
        inputs["token_type_ids"] = (ids == IMAGE).long()
    return inputs
