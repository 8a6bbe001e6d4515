"""`dola serve --check`: what an engine would find, without weights."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from engines import save_tiny

from dola.errors import ConfigError, DolaError


@pytest.fixture(scope="module")
def without_weights(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "llama"
    shutil.copytree(tiny_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    return folder


def test_a_model_that_can_be_served(without_weights: Path):
    from dola.integrations.vllm.check import check

    arguments = ["--dtype", "float32", "--enforce-eager", "--max-num-seqs", "5", "--pipeline-parallel-size", "2"]
    found = check(str(without_weights), {"layers": "high", "capture": "all"}, [*arguments, "--port", "8000"])
    assert (found.architecture, found.tested) == ("LlamaForCausalLM", True)
    assert (found.blocks, found.norms, found.head) == (("model.layers", 6), ("model.norm",), "ParallelLMHead")
    assert (found.layers, found.width) == ((0, 1, 2, 3, 4, 5), 64)
    assert found.memory == (6 + 2) * 5 * 64 * 4  # the last block's output has two places
    assert found.sent > 0
    text = "\n".join(found.lines())
    assert "blocks        model.layers, 6 of them, 64 wide" in text
    assert "proved on a forward pass when the engine starts" in text
    assert check(str(without_weights), {"layers": "high"}, arguments).layers == (3, 5), "a pipeline captures what layers names"


def test_it_leaves_nothing_for_a_later_engine(without_weights: Path):
    from vllm.model_executor.layers.rotary_embedding import _ROPE_DICT

    from dola.integrations.vllm.check import check

    before = dict(_ROPE_DICT)
    check(str(without_weights), {"layers": "high"}, ["--dtype", "float32", "--max-model-len", "77"])
    assert before == _ROPE_DICT


def test_settings_that_are_not_allowed_are_refused(without_weights: Path):
    from dola.integrations.vllm.check import check

    with pytest.raises(ConfigError, match="is not a bucket"):
        check(str(without_weights), {"layers": "hihg"}, ["--dtype", "float32"])
    with pytest.raises(DolaError, match="no-such-model"):
        check("no-such-model", {"layers": "high"})


def test_one_with_other_names(tmp_path: Path):
    from dola.integrations.vllm.check import check

    folder = save_tiny(tmp_path / "gpt2", "gpt2", n_embd=64, num_attention_heads=2)
    found = check(str(folder), {"layers": [2], "capture": [2]}, ["--dtype", "float32"])
    assert (found.blocks, found.norms, found.layers) == (("transformer.h", 6), ("transformer.ln_f",), (2,))
