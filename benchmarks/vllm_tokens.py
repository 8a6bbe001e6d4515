"""Does an engine of vLLM decode what `dola.generate` decodes? On any device, with compilation and CUDA graphs, in float32.

    python benchmarks/vllm_tokens.py FOLDER [--new-tokens 24] [--tensor-parallel 1]

FOLDER holds a model as safetensors. Eight prompts, plain and three choices of layers, each alone in transformers and all in one
batch in vLLM. It ends with 1 if an answer differs; two that differ at a near tie are rounding, so it prints where.
"""

from __future__ import annotations

import argparse
import os
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

import torch

import dola

PROMPTS = [[100 + 31 * i + 7 * j for j in range(4 + 3 * i)] for i in range(8)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--tensor-parallel", type=int, default=1)
    parser.add_argument("--eager", action="store_true", help="without compilation and CUDA graphs")
    parser.add_argument("--memory", type=float, default=0.4, help="share of the memory that vLLM takes")
    given = parser.parse_args()
    expected, layers = by_transformers(given.folder, given.new_tokens)
    found = by_vllm(given, layers)
    differing = 0
    for way, answers in expected.items():
        for number, (ours, theirs) in enumerate(zip(answers, found[way], strict=True)):
            if ours != theirs:
                differing += 1
                at = next(
                    (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
                )
                print(f"{way}, prompt {number}: differs from token {at} on: {ours[at : at + 3]} and {theirs[at : at + 3]}")
    total = sum(map(len, expected.values()))
    print(f"{total - differing} of {total} answers are those of transformers")
    return 1 if differing else 0


def by_transformers(folder: str, new_tokens: int) -> tuple[dict[str, list[list[int]]], dict[str, Any]]:
    """The answers of each way, and the layers that vLLM needs for it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model, _ = dola.load(folder, dtype="float32")
    model.to(device)
    blocks = dola.Anatomy.of(model).num_layers
    layers: dict[str, Any] = {"plain": "off", "high": "high", "low": "low", "a list": [1, blocks - 1]}
    settings = {"do_sample": False, "max_new_tokens": new_tokens, "min_new_tokens": new_tokens, "repetition_penalty": 1.2}
    found = {}
    for way, chosen in layers.items():
        answers = []
        for prompt in PROMPTS:
            ids = torch.tensor([prompt], device=device)
            given = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, **settings}
            whole = model.generate(ids, **given) if chosen == "off" else dola.generate(model, ids, dola_layers=chosen, **given)
            answers.append(whole[0, len(prompt) :].tolist())
        found[way] = answers
    return found, layers


def by_vllm(given: argparse.Namespace, layers: dict[str, Any]) -> dict[str, list[list[int]]]:
    """The answers of each way, all in one batch."""
    from vllm import LLM, SamplingParams

    llm = LLM(
        given.folder,
        dtype="float32",
        enforce_eager=given.eager,
        tensor_parallel_size=given.tensor_parallel,
        max_model_len=256,
        gpu_memory_utilization=given.memory,
        additional_config={"dola": {"layers": "high", "capture": "all", "default": "off"}},
    )
    asked = [(way, prompt) for way in layers for prompt in PROMPTS]
    length = {"max_tokens": given.new_tokens, "min_tokens": given.new_tokens, "temperature": 0, "repetition_penalty": 1.2}
    params = [SamplingParams(**length, extra_args={"dola_layers": layers[way]}) for way, _ in asked]
    outputs = llm.generate([{"prompt_token_ids": prompt} for _, prompt in asked], params, use_tqdm=False)
    found: dict[str, list[list[int]]] = {way: [] for way in layers}
    for (way, _), output in zip(asked, outputs, strict=True):
        found[way].append(list(output.outputs[0].token_ids))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
