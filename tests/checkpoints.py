"""Tiny checkpoints that are not what they should be: folders with other weights or another config, and GGUF files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import command
import gguf
import numpy as np
from safetensors.torch import load_file, save_file

Weights = dict[str, Any]

GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.": "blk.",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save(folder: Path, edit: Callable[[Weights], Weights] = dict, **config: Any) -> Path:
    """The tiny llama of `command.save` with edited weights and config."""
    command.save(folder)
    file = folder / "model.safetensors"
    weights = {name: weight.clone() for name, weight in edit(load_file(file)).items()}  # no two may share memory
    save_file(weights, file, metadata={"format": "pt"})
    edit_json(folder / "config.json", config)
    return folder


def edit_json(path: Path, changes: Mapping[str, Any]) -> None:
    """Change fields of a JSON file; None removes one."""
    fields = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in fields.items() if value is not None}))


def without(*beginnings: str) -> Callable[[Weights], Weights]:
    """An edit that loses the weights whose names begin so."""
    return lambda weights: {name: value for name, value in weights.items() if not name.startswith(beginnings)}


def renamed(prefix: str) -> Callable[[Weights], Weights]:
    """An edit that puts a prefix before each name."""
    return lambda weights: {prefix + name: value for name, value in weights.items()}


def gguf_name(name: str) -> str:
    """What llama.cpp calls a weight of a llama."""
    for ours, theirs in GGUF_NAMES.items():
        name = name.replace(ours, theirs)
    return name


def write_gguf(
    path: Path,
    model: Any,
    *,
    lost: tuple[str, ...] = (),
    more: Mapping[str, Any] | None = None,
    blocks: int | None = None,
    metadata: Mapping[str, int | str] | None = None,
    matrices: str = "F32",
) -> Path:
    """A tiny llama as a GGUF file with a tokenizer.

    Args:
        path: The file.
        model: The llama, its head not tied.
        lost: How the names of tensors begin that are left out.
        more: Tensors that are added.
        blocks: The number of blocks that the metadata give.
        metadata: More of it.
        matrices: The type that weights of two dimensions are stored in, "Q4_1" for instance.
    """
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(blocks or config.num_hidden_layers)
    for add, value in (
        (writer.add_context_length, config.max_position_embeddings),
        (writer.add_embedding_length, config.hidden_size),
        (writer.add_feed_forward_length, config.intermediate_size),
        (writer.add_head_count, config.num_attention_heads),
        (writer.add_head_count_kv, config.num_key_value_heads),
        (writer.add_layer_norm_rms_eps, config.rms_norm_eps),
        (writer.add_vocab_size, config.vocab_size),
        (writer.add_rope_dimension_count, config.head_dim),
        (writer.add_key_length, config.head_dim),
        (writer.add_value_length, config.head_dim),
        (writer.add_tokenizer_model, "gpt2"),
        (writer.add_token_list, ["<pad>", "<s>", "</s>", "w", "1", "2", *(f"w{i}" for i in range(config.vocab_size - 6))]),
        (writer.add_token_types, [1] * config.vocab_size),
        (writer.add_token_merges, ["w 1", "w 2"]),
        (writer.add_bos_token_id, 1),
        (writer.add_eos_token_id, 2),
        (writer.add_pad_token_id, 0),
    ):
        add(value)
    for key, value in (metadata or {}).items():
        writer.add_string(key, value) if isinstance(value, str) else writer.add_uint16(key, value)
    for name, weight in model.state_dict().items():
        array = weight.detach().numpy()
        if heads := {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2]):
            array = _rotated(array, heads)
        if not gguf_name(name).startswith(lost or ("never",)):
            kind = gguf.GGMLQuantizationType[matrices if array.ndim == 2 else "F32"]
            writer.add_tensor(gguf_name(name), gguf.quantize(array, kind), raw_dtype=kind)
    for name, array in (more or {}).items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _rotated(weight: Any, heads: int) -> Any:
    """llama.cpp's order of the rows of queries and keys."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def tie(folder: Path) -> None:
    """Tie the head of such a folder to its embeddings."""
    file = folder / "model.safetensors"
    save_file(without("lm_head")(load_file(file)), file, metadata={"format": "pt"})
    edit_json(folder / "config.json", {"tie_word_embeddings": True})
