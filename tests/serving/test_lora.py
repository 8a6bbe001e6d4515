"""LoRA adapters: requests with one beside requests without, against transformers on the merged weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from engines import Engine, Judge, options_for, save_tiny
from safetensors.torch import save_file
from setups import decode

PROMPTS = ["abc def", "Hello there", "1 2 3 4", "xyz"]
RANK, ALPHA = 4, 8
TARGETS = ["q_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def _saved(folder: Path, weights: dict[str, torch.Tensor], targets: list[str]) -> str:
    """An adapter as PEFT saves it."""
    folder.mkdir()
    settings = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "target_modules": targets, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        {f"base_model.model.{name}.weight": weight for name, weight in weights.items()}, folder / "adapter_model.safetensors"
    )
    return str(folder)


def _merged_into(model: Any) -> dict[str, torch.Tensor]:
    """Add a random adapter to a model's weights, and return it."""
    generator = torch.Generator().manual_seed(1)
    weights = {}
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in TARGETS:
            a = 0.2 * torch.randn(RANK, module.in_features, generator=generator)
            b = 0.2 * torch.randn(module.out_features, RANK, generator=generator)
            weights |= {f"{name}.lora_A": a, f"{name}.lora_B": b}
            module.weight += ALPHA / RANK * b @ a
    return weights


class Adapted(NamedTuple):
    """A model with an adapter in a folder beside it."""

    base: Judge
    path: str
    judges: list[tuple[Judge, str]]
    """One for each prompt: of every second one the adapter's, its weights merged."""


def _adapted(folder: Path) -> Adapted:
    base, merged = Judge(folder), Judge(folder)
    with torch.no_grad():
        path = _saved(folder.parent / "adapter", _merged_into(merged.model), TARGETS)
    return Adapted(base, path, [(merged if i % 2 else base, prompt) for i, prompt in enumerate(PROMPTS)])


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_tokens_are_those_of_the_merged_weights(family: str, tmp_path: Path):
    from vllm.lora.request import LoRARequest

    folder = save_tiny(tmp_path / family, family)
    base, path, judges = _adapted(folder)
    adapter = LoRARequest("adapter", 1, path)
    # Two places for one adapter: where all are taken, vLLM on CPUs gives requests without an adapter the last one's.
    with Engine(folder, {"layers": "high", "capture": "all", "default": "off"}, enable_lora=True, max_loras=2) as engine:
        for layers in (None, "high", "low", [2, 4]):
            expected = [judge.tokens(prompt, layers) for judge, prompt in judges]
            assert expected != [base.tokens(prompt, layers) for prompt in PROMPTS]
            assert engine.tokens(PROMPTS, options_for(layers), [None, adapter] * 2) == expected, layers
        ways = ["high", "low", None, [2, 4]]
        mixed = [options_for(layers) for layers in ways]
        expected = [judge.tokens(prompt, layers) for (judge, prompt), layers in zip(judges, ways, strict=True)]
        assert engine.tokens(PROMPTS, mixed, [None, adapter] * 2) == expected
        _the_head_is_refused(engine, base, tmp_path / "head")


@pytest.mark.slow
def test_several_workers(tmp_path: Path):
    folder = save_tiny(tmp_path / "llama")
    _, path, judges = _adapted(folder)
    requests, expected = [], []
    for layers in (None, "high", [2, 4]):
        requests.append({"prompts": PROMPTS, "options": options_for(layers), "sampling": {}, "adapters": [None, path] * 2})
        expected.append([judge.tokens(prompt, layers) for judge, prompt in judges])
    assert expected[0] != expected[1] != expected[2]
    assert decode(folder, "tensor parallel", requests, enable_lora=True, max_loras=2) == expected


def _the_head_is_refused(engine: Engine, base: Judge, folder: Path) -> None:
    """vLLM adds an adapter's part of the head to one row of logits for each request."""
    from vllm.lora.request import LoRARequest

    vocabulary, width = base.model.get_output_embeddings().weight.shape
    head = {"lm_head.lora_A": torch.randn(RANK, width), "lm_head.lora_B": torch.randn(vocabulary, RANK)}
    with pytest.raises(ValueError, match=r"received \['lm_head"):
        engine.llm.llm_engine.add_lora(LoRARequest("head", 2, _saved(folder, head, ["lm_head"])))
