"""Tiny random models of mlx-lm's files. One table of common fields fits most of them."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map
from mlx_lm.models.cache import make_prompt_cache

FIELDS: dict[str, Any] = {
    "hidden_size": 32, "d_model": 32, "n_embd": 32, "dim": 32, "model_dim": 32,
    "num_hidden_layers": 4, "n_layer": 4, "n_layers": 4, "num_layers": 4,
    "intermediate_size": 64, "hidden_dim": 64, "ffn_dim": 64, "n_inner": 64, "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "num_key_value_heads": 2, "n_kv_heads": 2, "num_kv_heads": 2,
    "head_dim": 8, "rms_norm_eps": 1e-5, "norm_eps": 1e-5, "layer_norm_eps": 1e-5, "layer_norm_epsilon": 1e-5,
    "layernorm_epsilon": 1e-5, "norm_epsilon": 1e-5, "vocab_size": 64, "max_position_embeddings": 128, "n_positions": 128,
    "n_ctx": 128, "max_sequence_length": 128, "max_seq_len": 128, "rope_theta": 10000.0, "rope_scaling": None,
    "num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "n_routed_experts": 4, "n_shared_experts": 1,
    "top_k": 2, "moe_topk": 2, "tie_word_embeddings": True, "partial_rotary_factor": 0.5, "rotary_pct": 0.5,
    "attention_bias": False, "mlp_bias": False, "sliding_window": 16, "dim_model_base": 16, "scale_depth": 1.4,
    "scale_emb": 2.0, "logits_scaling": 2.0, "attention_multiplier": 0.3, "embedding_multiplier": 2.0,
    "residual_multiplier": 0.5, "logit_scale": 0.3, "query_pre_attn_scalar": 8.0, "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 3.0, "norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": [],
    "use_qk_norm": True, "hidden_act": "silu", "use_parallel_residual": True, "rotary_emb_base": 10000,
    "sliding_window_pattern": 2, "bos_token_id": 1, "eos_token_id": 2, "qkv_bias": False, "no_bias": True,
}  # fmt: skip


def tiny(name: str) -> Any:
    """A model of one file, with every weight drawn. Raises what the file raises for these fields."""
    mx.random.seed(7)
    module = importlib.import_module(f"mlx_lm.models.{name}")
    known = inspect.signature(module.ModelArgs).parameters
    given = {key: value for key, value in FIELDS.items() if key in known}
    model = module.Model(module.ModelArgs(model_type=name, **given))
    model.update(tree_map(_drawn, model.parameters()))
    model.eval()
    mx.eval(model.parameters())
    return model


def _drawn(weight: Any) -> Any:
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    scale = 0.3 if weight.ndim < 2 else 1.2 / weight.shape[-1] ** 0.5
    return (1.0 if weight.ndim < 2 else 0.0) + scale * mx.random.normal(weight.shape)


def shortened(model: Any, tokens: Any, layers: tuple[int, ...]) -> list[Any]:
    """The logits of the same model with its first j blocks alone, for each j: what an earlier layer says, by another way."""
    blocks = next(_lists(model, model.layers[0]))
    kept, found = list(blocks), []
    try:
        for j in layers:
            cache = make_prompt_cache(model)  # of the full length: some files look at the caches of later blocks
            blocks[:] = kept[:j]
            found.append(model(tokens, cache=cache).astype(mx.float32))
            mx.eval(found[-1])
            blocks[:] = kept
    finally:
        blocks[:] = kept
    return found


def _lists(model: Any, block: Any) -> Iterator[list[nn.Module]]:
    """The list that holds a block: `model.layers` may be a copy of it."""
    for _, module in model.named_modules():
        for value in module.values():  # `children()` copies lists
            if isinstance(value, list) and any(each is block for each in value):
                yield value
