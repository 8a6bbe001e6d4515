"""Fields of mlx-lm's model files that make their models tiny: what many files share, and what one file alone needs."""

from __future__ import annotations

from typing import Any

MIXED = ["sliding_attention", "full_attention"] * 2
ROPE = {"rope_theta": 10000.0, "rope_type": "default"}

FIELDS: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "model_dim": 32,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4,
    "intermediate_size": 64, "hidden_dim": 64, "ffn_dim": 64, "n_inner": 64, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32, "shared_intermediate_size": 32, "moe_shared_expert_intermediate_size": 32,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_key_value_heads": 2, "n_kv_heads": 2, "num_kv_heads": 2,
    "num_heads": 4, "head_dim": 8, "rms_norm_eps": 1e-5, "norm_eps": 1e-5, "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-5, "layernorm_epsilon": 1e-5, "norm_epsilon": 1e-5, "vocab_size": 64,
    "max_position_embeddings": 128, "n_positions": 128, "n_ctx": 128, "max_sequence_length": 128, "max_seq_len": 128,
    "block_size": 128, "rope_theta": 10000.0, "rope_scaling": None, "partial_rotary_factor": 0.5, "rotary_pct": 0.5,
    "rotary_dim": 4, "rotary_emb_base": 10000,
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1,
    "num_shared_experts": 1, "num_shared_expert": 1, "moe_num_experts": 4, "top_k": 2, "moe_topk": 2, "n_group": 1,
    "topk_group": 1, "routed_scaling_factor": 1.0, "first_k_dense_replace": 1, "norm_topk_prob": True,
    "decoder_sparse_step": 1, "mlp_only_layers": [], "scoring_func": "sigmoid", "topk_method": "noaux_tc",
    "kv_lora_rank": 16, "q_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8,
    "index_head_dim": 16, "index_n_heads": 2, "index_topk": 4,
    "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "qkv_bias": False, "no_bias": True,
    "sliding_window": 16, "sliding_window_pattern": 2, "layer_types": MIXED, "use_qk_norm": True, "hidden_act": "silu",
    "use_parallel_residual": True, "bos_token_id": 1, "eos_token_id": 2,
    "dim_model_base": 16, "scale_depth": 1.4, "scale_emb": 2.0, "logits_scaling": 2.0, "attention_multiplier": 0.3,
    "embedding_multiplier": 2.0, "residual_multiplier": 0.5, "logit_scale": 0.3, "query_pre_attn_scalar": 8.0,
    "attn_logit_softcapping": 50.0, "final_logit_softcapping": 3.0,
    "conv_L_cache": 3, "conv_bias": False, "conv_kernel": 4, "use_bias": True, "use_conv_bias": True, "state_size": 8,
    "ssm_state_size": 8, "time_step_rank": 4, "time_step_limit": (0.001, 100.0), "n_groups": 1,
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
    "linear_conv_kernel_dim": 4, "linear_allow_neg_eigval": False, "full_attention_interval": 2, "layer_group_size": 2,
    "group_norm_size": 1,
}  # fmt: skip
"""What many files read, under the names that they read."""

_LFM2 = {
    "layer_types": ["conv", "full_attention"] * 2, "block_dim": 32, "block_multiple_of": 8, "block_ffn_dim_multiplier": 1.0,
    "block_auto_adjust_ff_dim": False, "use_expert_bias": True, "num_dense_layers": 1,
}  # fmt: skip
_YARN = {
    "type": "yarn", "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "mscale": 1.0,
    "mscale_all_dim": 1.0, "beta_fast": 32, "beta_slow": 1,
}  # fmt: skip
_SCALED = {**ROPE, "llama_4_scaling_beta": 0.1, "original_max_position_embeddings": 64}
_KIMI = {
    "num_experts_per_token": 2,
    "linear_attn_config": {
        "kda_layers": [1, 3], "full_attn_layers": [2, 4], "num_heads": 4, "head_dim": 8, "short_conv_kernel_size": 4
    },
}  # fmt: skip
_GEMMA4 = {"num_kv_shared_layers": 1, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 64, "global_head_dim": 16}
_LONGCAT = {
    "attention_method": "MLA", "zero_expert_type": "identity", "ffn_hidden_size": 64, "expert_ffn_hidden_size": 32,
    "zero_expert_num": 2, "mla_scale_q_lora": True, "mla_scale_kv_lora": True,
}  # fmt: skip

OWN: dict[str, dict[str, Any]] = {
    "afm7": {"hidden_dim": 32, "num_kv_reuse_layers": 2},
    "apertus": {"post_norm": False, "qk_norm": True},
    "baichuan_m1": {"tie_word_embeddings": False, "sliding_window_layers": [1, 3], "conv_window": 2},
    "dbrx": {
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
        "attn_config": {"kv_n_heads": 2, "clip_qkv": 8, "rope_theta": 1e4},
    },
    "deepseek_v2": {"rope_scaling": _YARN},
    "exaone4": {"sliding_window_pattern": "LG"},
    "exaone_moe": {"is_moe_layer": [False, True, True, True]},
    "gemma3n": {
        "text_config": {
            "num_kv_shared_layers": 1, "vocab_size_per_layer_input": 64, "rope_local_base_freq": 1e4,
            "activation_sparsity_pattern": [0.5, 0.5, 0.0, 0.0], "hidden_size_per_layer_input": 8, "altup_num_inputs": 2,
            "altup_coef_clip": 120.0, "altup_correct_scale": True, "altup_active_idx": 0, "laurel_rank": 4,
        }
    },
    "gemma4": {"text_config": _GEMMA4},
    "gemma4_text": _GEMMA4,
    "glm_moe_dsa": {"rope_parameters": ROPE, "moe_layer_freq": 1},
    "granitemoehybrid": {
        "layer_types": ["mamba", "attention"] * 2, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_proj_bias": False,
        "mamba_d_state": 8, "mamba_d_conv": 4, "mamba_n_groups": 1, "mamba_conv_bias": True,
    },
    "hunyuan": {
        "use_mixed_mlp_moe": True, "use_cla": True, "cla_share_factor": 2,
        "rope_scaling": {"alpha": 1.0, "factor": 1.0, "type": "dynamic"},
    },
    "jamba": {
        "attn_layer_offset": 1, "attn_layer_period": 2, "expert_layer_offset": 1, "expert_layer_period": 2,
        "mamba_d_conv": 4, "mamba_d_state": 8, "mamba_expand": 2,
    },
    "kimi_k3": {"text_config": {**_KIMI, "hidden_act": "situ", "attn_res_block_size": 2}},
    "kimi_linear": {"model_max_length": 128, **_KIMI},
    "lfm2": _LFM2,
    "lfm2-vl": {"text_config": _LFM2},
    "lfm2_moe": _LFM2,
    "lille-130m": {"n_embd": 128},
    "llama4": {
        "text_config": {
            "num_experts_per_tok": 1, "attention_chunk_size": 16, "interleave_moe_layer_step": 2, "intermediate_size_mlp": 64
        }
    },
    "llama4_text": {"intermediate_size_mlp": 64, "no_rope_layers": [1, 1, 1, 0]},
    "longcat_flash": _LONGCAT,
    "longcat_flash_ngram": _LONGCAT,
    "mamba2": {"num_heads": 8},
    "mellum": {"rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE}},
    "minicpm3": {
        "rope_scaling": {
            "type": "longrope", "original_max_position_embeddings": 64, "short_factor": [1.0] * 4, "long_factor": [1.0] * 4
        }
    },
    "ministral3": {"rope_parameters": _SCALED},
    "mistral4": {"rope_parameters": _SCALED},
    "mimo_v2_flash": {
        "hybrid_layer_pattern": [0, 1, 0, 1], "moe_layer_freq": [0, 1, 1, 1], "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False, "sliding_window_size": 16, "swa_rope_theta": 1e4,
        "swa_num_attention_heads": 4, "swa_num_key_value_heads": 2, "swa_head_dim": 8, "swa_v_head_dim": 8,
    },
    "muse_spark": {
        "text_config": {
            "post_norm_eps": 1e-5, "rope_parameters": ROPE, "layer_rope_theta": [1e4, 0, 1e4, 0], "output_multiplier": 1.0,
            "moe_hidden_size": 32, "num_shared_experts": 0,
        }
    },
    "nemotron-nas": {"block_configs": [{"attention": {"n_heads_in_group": 2}, "ffn": {"ffn_mult": 2.0}}] * 4},
    "nemotron_h": {
        "hybrid_override_pattern": ["M", "*", "E", "-"], "mamba_num_heads": 4, "mamba_head_dim": 8, "mamba_proj_bias": False
    },
    "olmo": {"mlp_hidden_size": 64, "embedding_size": 64},
    "openelm": {
        "num_transformer_layers": 4, "ffn_dim_divisor": 8, "num_query_heads": [4] * 4, "num_kv_heads": [2] * 4,
        "ffn_multipliers": [1.0] * 4,
    },
    "phi3small": {
        "vocab_size": 100352,  # it bans tokens up to 100351
        "dense_attention_every_n_layers": 2, "ff_intermediate_size": 64, "gegelu_limit": 20.0,
    },
    "plamo": {"n_shared_head": 2},
    "qwen": {"kv_channels": 8},
    "recurrent_gemma": {
        "conv1d_width": 4, "logits_soft_cap": 30.0, "attention_window_size": 16, "block_types": ["recurrent", "attention"]
    },
    "rwkv7": {"a_low_rank_dim": 8, "v_low_rank_dim": 8, "gate_low_rank_dim": 8, "decay_low_rank_dim": 8},
    "spark2_5": {"rope_parameters": {"sliding_attention": ROPE, "full_attention": ROPE}, "hidden_act": "gelu"},
    "stablelm": {"use_qkv_bias": False},
    "step3p5": {
        "num_attention_groups": 2, "moe_top_k": 2, "share_expert_dim": 32, "partial_rotary_factors": [0.5] * 4,
        "moe_layers_enum": "1,2,3",
    },
}  # fmt: skip
"""What one file needs besides, or needs otherwise."""
