"""Tiny random models, one per family, made from configs: no network, some milliseconds each.

`final_norm` and `logits` say where each family keeps its final norm and what it does to its head's output, written down from
the architectures and not from dola's discovery, so that the tests can hold the one against the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

VOCAB = 401
LLAMA_LIKE = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
}


@dataclass(frozen=True)
class Family:
    name: str
    settings: dict[str, Any]
    final_norm: str = "model.norm"
    logits: Callable[[Tensor], Tensor] = field(default=lambda logits: logits)
    projection: str | None = None


FAMILIES = {
    family.name: family
    for family in (
        *(
            Family(name, LLAMA_LIKE)
            for name in ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma3_text", "phi3", "olmo2", "stablelm", "smollm3")
        ),
        Family("mixtral", LLAMA_LIKE | {"num_local_experts": 4}),
        Family("starcoder2", LLAMA_LIKE | {"sliding_window": None}),
        Family("gemma2", LLAMA_LIKE | {"final_logit_softcapping": 15.0}, logits=lambda x: torch.tanh(x / 15.0) * 15.0),
        Family("granite", LLAMA_LIKE | {"logits_scaling": 0.25}, logits=lambda x: x / 0.25),
        Family("cohere", LLAMA_LIKE | {"logit_scale": 0.5}, logits=lambda x: x * 0.5),
        Family("phi", LLAMA_LIKE, "model.final_layernorm"),
        Family("gpt_neox", LLAMA_LIKE, "gpt_neox.final_layer_norm"),
        Family(
            "opt",
            LLAMA_LIKE | {"word_embed_proj_dim": 16, "ffn_dim": 64},
            "model.decoder.final_layer_norm",
            projection="model.decoder.project_out",
        ),
        Family("gpt2", {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 256}, "transformer.ln_f"),
        Family(
            "gptj",
            {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 6, "n_head": 4, "n_positions": 256, "rotary_dim": 4},
            "transformer.ln_f",
        ),
        Family("bloom", {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 6, "n_head": 4}, "transformer.ln_f"),
        Family(
            "falcon",
            {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 6, "num_attention_heads": 4},
            "transformer.ln_f",
        ),
        Family(
            "mpt", {"vocab_size": VOCAB, "d_model": 32, "n_layers": 6, "n_heads": 4, "max_seq_len": 256}, "transformer.norm_f"
        ),
    )
}


def tiny(
    name: str = "llama", *, seed: int = 0, spread: float = 4.0, dtype: torch.dtype = torch.float32, **settings: Any
) -> Any:
    """A random model of a family, its head scaled until logits have a standard deviation of about `spread`.

    A family that is not in FAMILIES gets the sizes of Llama's.

    Random heads are nearly uniform, where every token is plausible and no mask can ban the plausible set. At a spread of 4 a
    plausible set holds a handful of tokens.
    """
    torch.manual_seed(seed)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    sizes = FAMILIES[name].settings if name in FAMILIES else LLAMA_LIKE
    config = AutoConfig.for_model(name, **{**sizes, **ids, **settings})
    model = AutoModelForCausalLM.from_config(config).eval()
    model.generation_config.eos_token_id = None  # random models would stop anywhere
    for parameter in model.parameters():
        parameter.requires_grad_(False)
        if parameter.dim() > 1:
            parameter.mul_(3)  # or the blocks hardly add to the residual stream, and all layers say the same
    spread_logits(model, {"input_ids": torch.arange(3, 40)[None]}, spread)
    return model.to(dtype)


def spread_logits(model: Any, inputs: dict[str, Any], spread: float = 4.0) -> None:
    """Scale the head, where there is one, until logits have a standard deviation of about `spread`."""
    head = model.get_output_embeddings()
    for _ in range(3 if head is not None else 0):  # tied embeddings feed back through the model
        scale = spread / model(**inputs).logits.std().item()
        head.weight.mul_(min(max(scale, 0.1), 100.0))


def readout(model: Any, family: Family, hidden: Tensor, *, final_norm: bool = True, raw_head: bool = False) -> Tensor:
    """The readout of a residual stream by the family's own written-down parts."""
    if final_norm:
        hidden = model.get_submodule(family.final_norm)(hidden)
    if family.projection:
        hidden = model.get_submodule(family.projection)(hidden)
    logits = model.get_output_embeddings()(hidden)
    return logits if raw_head else family.logits(logits)
