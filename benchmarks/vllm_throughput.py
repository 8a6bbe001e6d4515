"""Tokens per second of vLLM with and without DoLa, in one engine, interleaved: batches of 1, 8 and 32, K = 1, 2 and 8.

    python benchmarks/vllm_throughput.py FOLDER [--repeats 3] [--new-tokens 24] [--output FILE]

FOLDER holds a model as safetensors. Each figure is the median of the repeats; within a repeat the ways follow one another, so
that a machine that others use slows all of them alike. Prompts have 8 tokens: decoding is nearly all that is timed.

The *floor* of a way is plain decoding's step and the head's product for the candidates of its undecided rows, timed between
the ways: what no implementation of the rule can go below with this product.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from dola import native
from dola.bench.ways import synchronize
from dola.decoding.step import chunk_rows

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")

BATCHES = (1, 8, 32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--graphs", action="store_true", help="with compilation and CUDA graphs")
    parser.add_argument("--memory", type=float, default=0.5, help="share of the memory that vLLM takes")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    result = measure(given.folder, given.dtype, given.repeats, given.new_tokens, given.memory, given.graphs)
    print(table(result))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: str, dtype: str, repeats: int, new_tokens: int, memory: float, graphs: bool) -> dict[str, Any]:
    from vllm import LLM

    llm = LLM(
        folder,
        dtype=dtype,
        enforce_eager=not graphs,
        max_model_len=256,
        gpu_memory_utilization=memory,
        max_num_seqs=max(BATCHES),
        enable_prefix_caching=False,
        additional_config={"dola": {"layers": "high", "capture": "all", "default": "off"}},
    )
    config = llm.llm_engine.vllm_config.model_config.hf_text_config
    layers = config.num_hidden_layers
    ways: dict[str, list[int] | None] = {
        "plain": None,
        "K = 1": [layers - 2],
        "K = 2": [layers - 4, layers - 2],
        "K = 8": list(range(layers - 16, layers, 2)),
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.randn(config.vocab_size, config.hidden_size, dtype=getattr(torch, dtype), device=device)
    seconds: dict[str, dict[str, list[float]]] = {str(batch): {way: [] for way in ways} for batch in BATCHES}
    head: dict[str, dict[str, list[float]]] = {str(batch): {way: [] for way in ways if way != "plain"} for batch in BATCHES}
    read: dict[str, dict[str, float]] = {str(batch): {} for batch in BATCHES}
    for batch in BATCHES:
        for repeat in range(repeats + 1):  # the first is to warm up
            for way, chosen in ways.items():
                with _undecided() as rows:
                    took = _time(llm, batch, chosen, new_tokens)
                if repeat:
                    seconds[str(batch)][way].append(took)
                if chosen is not None:
                    read[str(batch)][way] = sum(rows) * len(chosen) / new_tokens
                    if repeat:
                        head[str(batch)][way].append(_products(weight, [len(chosen) * each for each in rows], len(chosen)))
    rate = {
        batch: {way: int(batch) * new_tokens / statistics.median(times) for way, times in of_batch.items()}
        for batch, of_batch in seconds.items()
    }
    floor = {
        batch: {way: _floor(seconds[batch]["plain"], products) for way, products in of_batch.items()}
        for batch, of_batch in head.items()
    }
    return {
        "folder": Path(folder).name,
        "dtype": dtype,
        "new_tokens": new_tokens,
        "repeats": repeats,
        "seconds": seconds,
        "rate": rate,
        "head_rows": read,
        "head_seconds": head,
        "floor": floor,
    }


def _floor(plain: list[float], products: list[float]) -> float:
    """The largest share of plain decoding's rate, from seconds of plain decoding and of the candidates' products."""
    return statistics.median(one / (one + more) for one, more in zip(plain, products, strict=True))


@contextmanager
def _undecided() -> Iterator[list[int]]:
    """Collects the number of rows that each step inside contrasts."""
    from dola.integrations.vllm import metrics

    found: list[int] = []
    original = metrics.add_rows

    def add_rows(counts: Any) -> None:
        found.append(counts.rows["dola"] - counts.settled["dola"])
        original(counts)

    metrics.add_rows = add_rows
    try:
        yield found
    finally:
        metrics.add_rows = original


def _products(weight: torch.Tensor, rows: list[int], candidates: int) -> float:
    """Seconds of the head's products for so many rows in each step, cut into pieces as the step cuts them."""
    most = candidates * chunk_rows(weight.device.type, candidates * len(weight), weight.dtype)
    pieces = [min(most, each - start) for each in rows for start in range(0, each, most)]
    inputs = torch.randn(most, weight.shape[1], device=weight.device).to(weight.dtype)
    synchronize(weight.device)
    start = time.perf_counter()
    for piece in pieces:
        native.head_product(weight, inputs[:piece]) if native.streams(weight) else inputs[:piece] @ weight.T
    synchronize(weight.device)
    return time.perf_counter() - start


def _time(llm: Any, batch: int, layers: list[int] | None, new_tokens: int) -> float:
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": [100 + 7 * i + j for j in range(8)]} for i in range(batch)]
    extra = {"dola_layers": "off" if layers is None else layers}
    params = SamplingParams(temperature=0, max_tokens=new_tokens, ignore_eos=True, repetition_penalty=1.2, extra_args=extra)
    start = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - start


def table(result: dict[str, Any]) -> str:
    """Tokens per second, the share of plain decoding, and the floor: the largest share that is possible."""
    ways = list(next(iter(result["rate"].values())))
    lines = ["| batch | " + " | ".join(ways) + " |", "|" + "---|" * (len(ways) + 1)]
    for batch, rates in result["rate"].items():
        floors = result["floor"][batch]
        cells = [
            f"{rates[way]:.0f}" + ("" if way == "plain" else f" ({rates[way] / rates['plain']:.0%}, floor {floors[way]:.0%})")
            for way in ways
        ]
        lines.append(f"| {batch} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
