"""An engine whose requests are decoded with DoLa unless they say otherwise; prompts in chunks, and from the cache.

A file of its own: a process holds one engine at a time.
"""

from __future__ import annotations

from typing import Any

from engines import Engine, Judge


def test_a_long_prompt_in_chunks_and_a_prefix_from_the_cache(tiny_folder: Any):
    judge = Judge(tiny_folder)
    long = "abc " * 40
    settings = {"max_num_batched_tokens": 32, "enable_chunked_prefill": True, "enable_prefix_caching": True, "block_size": 32}
    with Engine(tiny_folder, {"layers": "high"}, **settings, max_num_seqs=4, max_model_len=256) as engine:
        expected = [judge.tokens(prompt, "high") for prompt in (long + "x", long + "yz", "short")]
        for _ in range(2):  # the second time from the cache
            assert engine.tokens([long + "x", long + "yz", "short"]) == expected  # "default" is on
        assert engine.tokens(["short"], {"dola_layers": "off"}) == [judge.tokens("short")]
