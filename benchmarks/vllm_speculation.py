"""Drafts by n-grams in vLLM, plain and with DoLa: tokens for each step of the engine, seconds, and whether tokens are equal.

    python benchmarks/vllm_speculation.py FOLDER [--new-tokens 64] [--drafts 3] [--output FILE]

FOLDER holds a model as safetensors. The prompts ask for text that repeats itself, for which n-grams are made, and for text that
does not. Tokens for each step do not depend on the machine; seconds do.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")

LINES = "Monday: rice and beans.\nTuesday: soup and bread.\nWednesday: fish and chips.\nThursday: rice and beans.\n"
PROMPTS = {
    "repeats": [f"{LINES}Here is the list again:\nMonday:", "def area(a, b):\n    return a * b\n\ndef area(a, b):\n    return"],
    "does not": ["The capital of Washington State is", "In the morning, the old sailor"],
}
WAYS = {"plain": {"dola_layers": "off"}, "dola": {"dola_layers": "high"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--drafts", type=int, default=3)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    drafts = {"method": "ngram", "num_speculative_tokens": given.drafts, "prompt_lookup_max": 3, "prompt_lookup_min": 2}
    without, with_drafts = _run(given, None), _run(given, drafts)
    print("| text | decoding | tokens for each step | seconds without | with drafts | same tokens |\n|---|---|---|---|---|---|")
    for key, (tokens, seconds, _) in without.items():
        drafted, later, steps = with_drafts[key]
        per_step = sum(map(len, drafted)) / steps
        print(
            f"| {key[0]} | {key[1]} | {per_step:.2f} | {seconds:.1f} | {later:.1f} | {'yes' if tokens == drafted else 'no'} |"
        )
    if given.output:
        found = {name: {" ".join(key): value for key, value in each.items()} for name, each in
                 (("without", without), ("with", with_drafts))}  # fmt: skip
        given.output.write_text(json.dumps(found) + "\n")


def _run(given: argparse.Namespace, drafts: dict[str, Any] | None) -> dict[tuple[str, str], tuple[list[list[int]], float, int]]:
    """Tokens, seconds and steps of each text and way, one prompt after another."""
    from vllm import LLM, SamplingParams

    more = {} if drafts is None else {"speculative_config": drafts}
    settings = {"layers": "high", "default": "off"}
    engine: Any = LLM(
        given.folder, dtype="float32", enforce_eager=True, max_model_len=256, additional_config={"dola": settings}, **more
    )
    core, found = engine.llm_engine.engine_core.engine_core, {}
    steps, original = 0, core.model_executor.execute_model

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        steps += 1
        return original(*args, **kwargs)

    core.model_executor.execute_model = counted
    for text, prompts in PROMPTS.items():
        for way, options in WAYS.items():
            params = SamplingParams(temperature=0, max_tokens=given.new_tokens, ignore_eos=True, extra_args=options)
            params.repetition_penalty = 1.0
            engine.generate(prompts[:1], params, use_tqdm=False)  # warm
            steps, began, tokens = 0, time.perf_counter(), []
            for prompt in prompts:
                tokens += [list(engine.generate([prompt], params, use_tqdm=False)[0].outputs[0].token_ids)]
            found[text, way] = tokens, time.perf_counter() - began, steps
    engine.llm_engine.engine_core.shutdown()
    del engine, core
    gc.collect()
    return found


if __name__ == "__main__":
    main()
