"""What `dola.trace` costs over a forward with all its layers read out, as a ratio, both measured in turns in one run.

    python benchmarks/trace_cost.py --model smollm2 --tokens 128

With --memory it prints the process's peak memory over the loaded model instead, for a prompt of --tokens (Linux).
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from pathlib import Path

import torch

import dola
from dola.decoding.step import chunk_rows
from dola.model.hidden import captured, few_logits


@torch.no_grad()
def read_out(anatomy: dola.Anatomy, ids: list[int]) -> None:
    """A forward, and the logits of every layer at every position, as many positions at a time as the trace takes."""
    row = torch.tensor([ids], device=anatomy.lm.device)
    with captured(anatomy, range(anatomy.num_layers)) as hidden:
        anatomy.lm(row, use_cache=False, **few_logits(anatomy.lm))
        size = chunk_rows(row.device.type, 4 * anatomy.vocabulary)
        for states in hidden.values():
            for start in range(0, len(ids), size):
                anatomy.readout(states[0, start : start + size])


def seconds(call, device: torch.device) -> float:
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def peak_mib() -> float:
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--memory", action="store_true")
    arguments = parser.parse_args()
    model, tokenizer = dola.load(arguments.model)
    anatomy = dola.Anatomy.of(model)
    ids = torch.randint(10, 10_000, (arguments.tokens,), generator=torch.Generator().manual_seed(0)).tolist()

    def trace() -> None:
        dola.trace(model, tokenizer, ids, "high")

    def plain() -> None:
        read_out(anatomy, ids)

    dola.trace(model, tokenizer, ids[:8], "high")  # what is slow only once
    read_out(anatomy, ids[:8])
    if arguments.memory:
        Path("/proc/self/clear_refs").write_text("5")
        before = peak_mib()
        trace()
        print(f"{arguments.tokens} tokens: {peak_mib() - before:.0f} MiB over the loaded model")
        return
    pairs = [(seconds(plain, model.device), seconds(trace, model.device)) for _ in range(arguments.repeats)]
    ratios = [traced / read for read, traced in pairs]
    read, traced = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"{arguments.tokens} tokens, {anatomy.num_layers} layers, {torch.get_num_threads()} threads: ", end="")
    print(f"forward and readouts {read:.2f} s, trace {traced:.2f} s; ratio {statistics.median(ratios):.2f} ", end="")
    print(f"({min(ratios):.2f} to {max(ratios):.2f}, {arguments.repeats} runs)")


if __name__ == "__main__":
    main()
