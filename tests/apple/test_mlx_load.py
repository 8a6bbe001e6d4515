"""Folders that transformers 5 wrote: rotary settings reach mlx-lm under the names that it reads, or the folder is refused."""

from __future__ import annotations

import json

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_sizes import FIELDS
from tiny_mlx import tiny

import dola.mlx
from dola.errors import ModelFileError
from dola.mlx.loading import translated

LLAMA = {"model_type": "llama", "rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}}


def test_the_base_of_all_layers():
    assert translated(LLAMA)["rope_theta"] == 500.0
    assert "rope_scaling" not in translated(LLAMA)


def test_scaling():
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    found = translated({"model_type": "llama", "rope_parameters": rope})
    assert found["rope_scaling"] == {"rope_type": "llama3", "type": "llama3", "factor": 8.0}


def test_layers_with_a_window_have_their_own_base():
    rope = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
    found = translated({"model_type": "gemma3_text", "rope_parameters": rope, "_sliding_window_pattern": 3})
    assert (found["rope_theta"], found["rope_local_base_freq"], found["sliding_window_pattern"]) == (1e6, 1e4, 3)


@pytest.mark.parametrize(
    "rope",
    [
        {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}},
        {"full_attention": {"rope_theta": 1e6}, "chunked": {"rope_theta": 1e4}},
    ],
)
def test_settings_that_mlx_lm_cannot_represent_are_refused(rope):
    with pytest.raises(ModelFileError, match="it would decode other tokens"):
        translated({"model_type": "llama", "rope_parameters": rope})


def test_other_configs_stay_as_they_are():
    old = {"model_type": "llama", "rope_theta": 7.0}
    assert translated(old) == old


def test_a_folder_decodes_with_the_base_that_it_names(tmp_path, monkeypatch):
    """The same weights with `rope_theta` and with `rope_parameters` give the same logits; mlx-lm alone gives others."""
    model, tokens = tiny("llama"), mx.array([[3, 9, 27, 17, 51]])
    mx.save_safetensors(str(tmp_path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    fields = {key: FIELDS[key] for key in (
        "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "rms_norm_eps", "vocab_size", "tie_word_embeddings",
    )}  # fmt: skip
    monkeypatch.setattr("mlx_lm.utils.load_tokenizer", lambda *args, **kwargs: None)

    def logits(**rope):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **fields, **rope}))
        return dola.mlx.load(str(tmp_path))[0](tokens)

    old, new = logits(rope_theta=50.0), logits(rope_parameters={"rope_theta": 50.0, "rope_type": "default"})
    assert mx.array_equal(old, new)
    assert not mx.allclose(old, logits())


def test_a_folder_that_does_not_exist():
    with pytest.raises(ModelFileError, match="cannot be loaded with MLX"):
        dola.mlx.load("/nowhere/at/all")
