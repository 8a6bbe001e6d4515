"""An engine whose requests are decoded with DoLa unless they say otherwise; prompts in chunks, from the cache, and preempted.

A file of its own: a process holds one engine at a time.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from engines import Engine, Judge, options_for, save_tiny


def test_a_long_prompt_in_chunks_and_a_prefix_from_the_cache(tiny_folder: Any):
    judge = Judge(tiny_folder)
    long = "abc " * 40
    settings = {"max_num_batched_tokens": 32, "enable_chunked_prefill": True, "enable_prefix_caching": True, "block_size": 32}
    with Engine(tiny_folder, {"layers": "high"}, **settings, max_num_seqs=4, max_model_len=256) as engine:
        expected = [judge.tokens(prompt, "high") for prompt in (long + "x", long + "yz", "short")]
        for _ in range(2):  # the second time from the cache
            assert engine.tokens([long + "x", long + "yz", "short"]) == expected  # "default" is on
        assert engine.tokens(["short"], {"dola_layers": "off"}) == [judge.tokens("short")]
        _beams_are_refused(engine)


def _beams_are_refused(engine: Engine) -> None:
    from vllm.sampling_params import BeamSearchParams

    with pytest.raises(ValueError, match="Beam search drops a request's DoLa options"):
        engine.llm.beam_search([{"prompt": "abc"}], BeamSearchParams(beam_width=2, max_tokens=4))


def test_requests_that_are_preempted_and_copies_of_one_request(tiny_folder: Any, monkeypatch: pytest.MonkeyPatch):
    """Four long answers, and a cache for two of them: the others lose their place and are decoded again from the start."""
    from vllm.v1.core.sched.scheduler import Scheduler

    preempted = []
    preempt = Scheduler._preempt_request

    def noted(scheduler: Any, request: Any, *given: Any, **more: Any) -> Any:
        preempted.append(request)
        return preempt(scheduler, request, *given, **more)

    monkeypatch.setattr(Scheduler, "_preempt_request", noted)
    judge, prompts, ways = Judge(tiny_folder), ["abc def", "Hello there", "1 2 3 4", "xyz"], [None, "high", [2, 4], "low"]
    settings = {"num_gpu_blocks_override": 7, "block_size": 32, "max_num_seqs": 4, "async_scheduling": True}
    with Engine(tiny_folder, {"layers": "high", "capture": "all", "default": "off"}, **settings) as engine:
        found = engine.tokens(prompts, [options_for(layers) for layers in ways], max_tokens=80)
        assert preempted
        assert found == [judge.tokens(prompt, layers, max_new_tokens=80) for prompt, layers in zip(prompts, ways, strict=True)]
        for layers in (None, "high"):
            output = engine.outputs(["abc def"], options_for(layers), n=3, temperature=1e-3, seed=1)[0]
            assert [list(each.token_ids) for each in output.outputs] == [judge.tokens("abc def", layers)] * 3


def test_layers_of_the_generation_config(tmp_path: Path):
    """An engine that names no layers takes them from there; a penalty in it is the default of an engine's own parameters."""
    folder = save_tiny(tmp_path / "llama")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "dola_layers": [2, 4], "repetition_penalty": 1.3}))
    judge = Judge(folder)
    judge.model.generation_config.dola_layers = None
    expected = judge.tokens("abc def", [2, 4])
    assert expected != judge.tokens("abc def", "high")
    with Engine(folder, {}) as engine:
        assert engine.llm.get_default_sampling_params().repetition_penalty == 1.3
        judge.model.generation_config.repetition_penalty = None
        assert engine.tokens(["abc def"]) == [judge.tokens("abc def", [2, 4])]
