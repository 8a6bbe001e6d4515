"""What an engine refuses at its start with a reason, instead of silently decoding plainly."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import command
import pytest

DOLA = {"dola": {"layers": "high"}}


def _config(folder: Path, additional: Any = DOLA, **settings: Any) -> Any:
    """The engine's configuration, as its front end makes it: no engine is started."""
    from vllm.engine.arg_utils import EngineArgs

    given = {"dtype": "float32", "max_model_len": 128, "enforce_eager": True, **settings}
    return EngineArgs(model=str(folder), additional_config=additional, **given).create_engine_config()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"layers": "hihg"}, "is not a bucket"),
        ({"layers": [6]}, "layer and cannot be a candidate"),
        ({"layer": "high"}, "is not a setting. Settings: layers"),
        ({"default": "maybe"}, 'Allowed: "on" and "off"'),
        ({"relative_top": 2}, "out of range"),
        ({"method": "confident", "probability": 0.5}, "'confident' draws at each position"),
        ({"method": "sled", "relative_top": 0.1}, "is not a setting. Settings: layers, rate"),
        ("high", "not an object of settings"),
    ],
)
def test_settings_that_are_not_allowed(settings: Any, words: str, tiny_folder: Path):
    with pytest.raises(ValueError, match=words):
        _config(tiny_folder, {"dola": settings})


NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 2}


def test_speculative_decoding(tiny_folder: Path):
    """Drafts by n-grams on runner V1 are supported (test_speculation.py), all others are refused."""
    assert _config(tiny_folder, speculative_config=NGRAM).speculative_config.method == "ngram"
    model = {"method": "draft_model", "model": str(tiny_folder), "num_speculative_tokens": 2}
    with pytest.raises(ValueError, match=r"speculative decoding.*is not compatible with DoLa.*this is 'draft_model'"):
        _config(tiny_folder, speculative_config=model)
    with pytest.raises(ValueError, match="in a pipeline of several stages"):
        _config(tiny_folder, speculative_config=NGRAM, pipeline_parallel_size=2, enforce_eager=False)
    _config(tiny_folder, {}, speculative_config=NGRAM)


def test_adapters_on_the_head(tiny_folder: Path):
    with pytest.raises(ValueError, match=r"adapters on the head.*is not compatible with DoLa"):
        _config(tiny_folder, enable_lora=True, lora_target_modules=["q_proj", "lm_head"])
    _config(tiny_folder, enable_lora=True)


def test_stock_torch_compile(tiny_folder: Path):
    with pytest.raises(ValueError, match=r"stock torch.compile.*is not compatible with DoLa"):
        _config(tiny_folder, compilation_config={"mode": 1})


def test_graphs_with_dola_are_cached_apart(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Graphs of another dola version, or without dola, have other outputs, and vLLM caches graphs by its settings."""
    found = {_config(tiny_folder).compute_hash()}
    monkeypatch.setattr("dola.integrations.vllm.plugin.__version__", "another")
    found.add(_config(tiny_folder).compute_hash())
    monkeypatch.setattr("dola.integrations.vllm.plugin.served_by", lambda config: None)  # as where it is switched off
    found.add(_config(tiny_folder).compute_hash())
    assert len(found) == 3


def test_a_batch_in_parts_and_other_rows_for_later_blocks(tmp_path: Path, tiny_folder: Path):
    with pytest.raises(ValueError, match=r"kv_sharing_fast_prefill\) is not compatible with DoLa"):
        _config(tiny_folder, kv_sharing_fast_prefill=True)


def test_a_vllm_whose_front_ends_cannot_be_checked(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Beams would silently be decoded by the default, so an engine with DoLa does not start."""
    from dola.integrations.vllm import gate

    for places in ((("vllm.entrypoints.anthropic.serving", "Renamed", "x"),), (("vllm.entrypoints.moved", "A", "x"),)):
        monkeypatch.setattr(gate, "FORGETFUL", places)
        with pytest.raises(ValueError, match=r"This vLLM has no vllm\.entrypoints\..*, where dola checks requests"):
            _config(tiny_folder)
        _config(tiny_folder, {})


def test_settings_under_another_name(tiny_folder: Path):
    with pytest.raises(ValueError, match="'DoLa' in additional_config is not a setting"):
        _config(tiny_folder, {"DoLa": {"layers": "high"}})


def _start(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    code = (
        "from vllm import LLM, SamplingParams\n"
        f"llm = LLM({str(folder)!r}, dtype='float32', enforce_eager=True, max_model_len=64, additional_config={DOLA!r})\n"
        "print([len(o.outputs[0].token_ids) for o in llm.generate(['abc'], SamplingParams(max_tokens=4))])\n"
        "llm.generate(['abc'], SamplingParams(max_tokens=4, extra_args={'dola_layers': 'high'}))\n"
    )
    env = command.environment(**variables)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)


def test_switched_off_it_decodes_plainly_and_says_so(tiny_folder: Path):
    ended = _start(tiny_folder, DOLA_VLLM="0")
    assert "[4]" in ended.stdout
    assert "DoLa is not available: it is switched off (DOLA_VLLM=0)" in ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "This server does not decode with DoLa" in ended.stderr  # the request that asks for it


def test_another_vllm_is_refused_if_it_lacks_what_dola_uses(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    import vllm

    from dola.integrations.vllm import engines, plugin
    from dola.integrations.vllm.requests import DoLaRequests

    config = _config(tiny_folder)
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    assert plugin.why_not() is None  # it has all of it
    assert "have not run vLLM 0.99.0" in plugin.untested()
    monkeypatch.setattr(engines, "failures", lambda root: ["vllm.sequence does not exist"])
    with pytest.raises(ValueError, match=r"this is vLLM 0\.99\.0, which differs from what dola uses: vllm.sequence"):
        DoLaRequests(config)
