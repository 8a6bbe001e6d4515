"""What each method costs beside greedy decoding, in turns in one run; greedy decoding twice, for the noise of the machine.

    python benchmarks/methods.py --model smollm2 --dtype bfloat16 --batch-sizes 1,8 --lens FILE

Prints the median of the ratios, each within its round, and the smallest and largest of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from contextlib import nullcontext
from typing import Any

import torch
from transformers import StoppingCriteriaList

import dola
from dola.bench.cases import cut_case, texts
from dola.bench.ways import Clock
from dola.methods.registry import METHODS, config_of, required_settings
from dola.text.encoding import Encoder


def ways(lens: str | None) -> dict[str, Any]:
    """The rows: greedy decoding, greedy decoding again, DoLa, DoLa through a lens, and each other method with its defaults."""
    found: dict[str, Any] = {"greedy": None, "greedy again": None, "DoLa high": dola.DoLaConfig("high")}
    if lens is not None:
        found["DoLa high, lens"] = dola.DoLaConfig("high", lens=lens)
    for name, kind in METHODS.items():
        if name != "dola" and not required_settings(kind):
            found[name] = config_of({"method": name})
    return found


@torch.no_grad()
def seconds_per_token(model: Any, ids: torch.Tensor, new_tokens: int, config: Any) -> float:
    """Time of a token after the first one."""
    clock = Clock(ids.device)
    with nullcontext() if config is None else dola.attach(model, config):
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=new_tokens,
            max_new_tokens=new_tokens,
            stopping_criteria=StoppingCriteriaList([clock]),
        )
        return (time.perf_counter() - clock.first) / (new_tokens - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-sizes", default="1")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--lens")
    parser.add_argument("--only", help="a part of the names of the rows to time beside greedy decoding")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model, tokenizer = dola.load(arguments.model, dtype=arguments.dtype)
    encoder = Encoder.of(model, tokenizer)
    rows = ways(arguments.lens)
    if arguments.only:
        rows = {name: config for name, config in rows.items() if config is None or arguments.only in name}
    found = {}
    for size in map(int, arguments.batch_sizes.split(",")):
        ids = cut_case(encoder, texts("mixed"), batch_size=size, length=24, batches=1).prompts[0]
        times: dict[str, list[float]] = {name: [] for name in rows}
        for config in rows.values():
            seconds_per_token(model, ids, 4, config)  # warm: kernels, caches of lenses
        names = list(rows)
        for turn in range(arguments.repeats):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                times[name].append(seconds_per_token(model, ids, arguments.new_tokens, rows[name]))
        for name, own in times.items():
            ratios = [one / greedy for one, greedy in zip(own, times["greedy"], strict=True)]
            found[f"{name}, batch {size}"] = [statistics.median(ratios), min(ratios), max(ratios), statistics.median(own)]
    if arguments.json:
        print(
            json.dumps({"model": arguments.model, "dtype": arguments.dtype, "threads": torch.get_num_threads(), "rows": found})
        )
        return
    for name, (middle, low, high, token) in found.items():
        print(f"{name:28} x{middle:.3f} ({low:.3f} to {high:.3f})  {1000 * token:.1f} ms a token")


if __name__ == "__main__":
    main()
