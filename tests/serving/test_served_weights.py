"""Checkpoints that lack weights: an engine with DoLa refuses to start and names them. vLLM itself would start."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from engines import Engine, save_tiny
from safetensors.torch import load_file, save_file


@pytest.fixture(autouse=True)
def cleaned() -> Any:
    """An engine that fails to start leaves its workers' groups."""
    from vllm.distributed import cleanup_dist_env_and_memory

    yield
    gc.collect()
    cleanup_dist_env_and_memory()


def _without(folder: Path, out: Path, *lost: str, prefix: str = "", extra: str = "") -> Path:
    """A copy of a folder whose weights lack some, or have other names."""
    shutil.copytree(folder, out)
    weights = {prefix + name: tensor for name, tensor in load_file(out / "model.safetensors").items() if name not in lost}
    assert not set(lost) & set(weights)
    if extra:
        weights[extra] = next(iter(weights.values())).clone()
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize(
    ("lost", "words"),
    [
        ("lm_head.weight", r"lacks 1 of the 39 weights of LlamaForCausalLM in vLLM.*: lm_head\.weight\."),
        ("model.layers.2.self_attn.q_proj.weight", r"lacks 1 of .*: model\.layers\.2\.self_attn\.q_proj\.weight\."),
        ("model.layers.1.mlp.down_proj.weight", r"lacks 1 of .*: model\.layers\.1\.mlp\.down_proj\.weight\."),
        ("model.norm.weight", r"lacks 1 of .*: model\.norm\.weight\."),
    ],
)
def test_a_weight_that_is_missing(lost: str, words: str, tiny_folder: Path, tmp_path: Path):
    with pytest.raises(ValueError, match=words):
        Engine(_without(tiny_folder, tmp_path / "m", lost), {"layers": "high", "default": "off"})


def test_an_expert_that_is_missing(tmp_path: Path):
    folder = save_tiny(tmp_path / "mixtral", "mixtral")
    names = [name for name in load_file(folder / "model.safetensors") if ".experts." in name]
    lost = next(name for name in names if "layers.1." in name)
    with pytest.raises(ValueError, match="lacks 1 of"):
        Engine(_without(folder, tmp_path / "m", lost), {"layers": "high"})


def test_a_trainers_prefix_and_tensors_of_others(tiny_folder: Path, tmp_path: Path):
    """These vLLM refuses by itself; the tensor and a way out are named."""
    prefixed = _without(tiny_folder, tmp_path / "prefixed", prefix="base_model.model.")
    with pytest.raises(ValueError, match=r"(?s)failed at base_model\.model\..*a trainer's prefix"):
        Engine(prefixed, {"layers": "high"})


def test_a_shape_that_does_not_fit(tiny_folder: Path, tmp_path: Path):
    out = tmp_path / "shape"
    shutil.copytree(tiny_folder, out)
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps({**config, "intermediate_size": 2 * config["intermediate_size"]}))
    with pytest.raises(ValueError, match=r"failed at model\.layers\.\d\.mlp\.\w+\.weight, of shape \["):
        Engine(out, {"layers": "high"})


def test_a_tied_head_is_not_missing(tmp_path: Path):
    with Engine(save_tiny(tmp_path / "tied", tie_word_embeddings=True), {"layers": "low"}) as engine:
        assert len(engine.tokens(["abc"], max_tokens=2)[0]) == 2
