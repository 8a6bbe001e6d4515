"""A tiny random model of any architecture of transformers, from its config class: sizes shrunk by the names that configs share.

`families.py` writes 23 families down by hand; this guesses, so that an architecture that a new transformers brings is tried
too. `EXCEPTIONS` holds what cannot be guessed, by model type.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

VOCAB, LAYERS, HIDDEN, HEADS = 401, 4, 32, 4
LARGEST = 30_000_000
"""Parameters above which a model was not shrunk, and is not made."""

NAMES = (
    (VOCAB, "vocab_size vocab_size_per_layer_input"),
    (LAYERS, "num_hidden_layers n_layer n_layers num_layers decoder_layers encoder_layers num_decoder_layers"),
    (HIDDEN, "hidden_size d_model n_embd dim_model d_embed embedding_size embed_dim emb_dim decoder_hidden_size"),
    (HEADS, "num_attention_heads n_head n_heads num_heads decoder_attention_heads encoder_attention_heads"),
    (4, "num_experts num_local_experts n_routed_experts moe_num_experts linear_num_value_heads index_n_heads"),
    (2, "num_key_value_heads n_head_kv num_experts_per_tok moe_topk top_k num_experts_per_token num_shared_experts"),
    (2, "n_shared_experts linear_num_key_heads"),
    (1, "topk_group n_group topk_group_experts first_k_dense_replace num_dense_layers"),
    (64, "intermediate_size ffn_dim d_ff dim_ff n_inner decoder_ffn_dim encoder_ffn_dim moe_intermediate_size"),
    (64, "shared_expert_intermediate_size shared_intermediate_size ffn_hidden_size mlp_hidden_size intermediate_size_mlp"),
    (8, "head_dim v_head_dim qk_nope_head_dim qk_rope_head_dim linear_key_head_dim linear_value_head_dim index_head_dim"),
    (8, "mamba_d_head attention_head_dim swa_head_dim swa_v_head_dim global_head_dim hidden_size_per_layer_input"),
    (4, "rotary_dim"),
    (16, "q_lora_rank kv_lora_rank state_size mamba_d_state image_size o_lora_rank"),
    (256, "max_position_embeddings n_positions max_seq_len max_target_positions"),
)
SIZES = {name: size for size, names in NAMES for name in names.split()}
IDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "is_decoder": True}

MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_chunk_size": 16}
MIXED = {"layer_types": ["linear_attention", "full_attention"] * 2}
EXCEPTIONS: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_types": MIXED["layer_types"], "mlp_layer_types": ["dense", "sparse"] * 2, "num_expert_group": 1},
    "bamba": {**MAMBA, "attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 500, "patcher_config": {"vocab_size": 260}, "vocab_size": 260},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e4}}},
    "dbrx": {"attn_config": {"rope_theta": 1e4, "clip_qkv": 8.0}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "dots3_note": {"text_config": {"head_dim": 16, "per_layer_config": {}}},
    "dots3_note_text": {"head_dim": 16, "per_layer_config": {}},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 4}},
    "gemma4_unified_assistant": {"text_config": {"num_kv_shared_layers": 0}},
    "gemma3n_text": {"num_kv_shared_layers": 0, "intermediate_size": [64] * 4, "activation_sparsity_pattern": [0.0] * 4},
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"] * 2},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "num_experts": 4, "moe_topk": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "kimi_linear": {**MIXED, "mlp_layer_types": ["dense", "sparse"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "longcat_flash": {"zero_expert_num": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "n_groups": 2, "chunk_size": 16},
    "ministral": {"head_dim": 8},
    "mllama": {"text_config": {"cross_attention_layers": [1]}},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": {
        "indexer_n_heads": 4, "indexer_kv_heads": 1, "indexer_head_dim": 8, "indexer_budget": 64, "indexer_compress_ratio": 4,
        "hc_lowrank": 8, "ngram_vocab_size_base": 1000, "split_ngram_parts": 4,
    },
    "reformer": {
        "axial_pos_embds_dim": [8, 24], "axial_pos_shape": [16, 16], "attn_layers": ["local", "lsh"] * 2, "num_buckets": 4,
        "attention_head_size": 8, "feed_forward_size": 64,
    },
    "xlstm": {"num_blocks": 4, "hidden_size": 128, "embedding_dim": 128},
    "xmod": {"default_language": "en_XX"},
    "zamba": {"attention_hidden_size": 64, "attention_head_dim": 16, "num_key_value_heads": 4, "mamba_dt_rank": 4,
              "layers_block_type": ["linear_attention", "hybrid"] * 2},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"] * 2, "attention_hidden_size": 64, "kv_channels": 8,
               "attention_head_dim": 16, "num_query_groups": 4, "num_key_value_heads": 4, "mamba_headdim": 8, "chunk_size": 16,
               "adapter_rank": 4, "hybrid_layer_ids": [1, 3]},
    "zaya": {"num_experts_per_tok": 1, "router_hidden_size": 16},
}  # fmt: skip
"""What the guess gets wrong, by model type."""


def config_of(model_type: str, **settings: Any) -> Any:
    """A config of a few thousand parameters. `settings` come before everything else."""
    return _shrunk(CONFIG_MAPPING[model_type], settings)


def _shrunk(kind: type[PreTrainedConfig], settings: dict[str, Any]) -> Any:
    default = kind()
    known = {**default.to_dict(), **default.attribute_map}
    settings = {**EXCEPTIONS.get(kind.model_type, {}), **settings}
    sizes = {name: size for name, size in SIZES.items() if isinstance(known.get(name), (int, str))}
    if "num_key_value_heads" in sizes and known["num_key_value_heads"] == known.get("num_attention_heads"):
        sizes["num_key_value_heads"] = HEADS  # of latent attention, which shares nothing
    too_large = {name: new for name, new in IDS.items() if isinstance(known.get(name), int) and known[name] >= VOCAB}
    sizes |= too_large if kind.sub_configs else IDS
    for name, value in vars(default).items():
        if isinstance(value, PreTrainedConfig):
            with suppress(AttributeError):  # parts of a config that are no config of their own (dbrx)
                sizes[name] = _shrunk(type(value), settings.get(name, {}))
    parts = {name: value for name, value in sizes.items() if isinstance(value, PreTrainedConfig)}
    given = {**sizes, **{name: value for name, value in settings.items() if name not in parts}}
    try:
        return kind(**given)
    except Exception:  # a config that takes its parts as dictionaries only
        return kind(**{**given, **{name: part.to_dict() for name, part in parts.items()}})


def build(config: Any, *, seed: int = 0, auto: Any = AutoModelForCausalLM) -> Any:
    """The random model of a config in float32 and eval mode, with norms that are not all ones."""
    with torch.device("meta"):
        size = sum(parameter.numel() for parameter in auto.from_config(config).parameters())
    if size > LARGEST:
        raise ValueError(f"its config leaves {size:,} parameters")
    torch.manual_seed(seed)
    model = auto.from_config(config, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # random models would stop anywhere
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(False)
        if parameter.dim() == 1 and ("norm" in name.lower() or "ln_" in name):
            parameter.add_(0.3 * torch.randn_like(parameter))  # or a norm that is passed over would hardly be noticed
        elif parameter.dim() > 1 and not parameter.any() and "project" in name:
            parameter.normal_(std=0.2)  # Gemma 3 begins with a blank view of its images
    return model
