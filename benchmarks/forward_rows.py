"""How long a forward over some tokens behind a cache takes, relative to one token: what drafts cost (`cost.FORWARD_BOUND`).

    python benchmarks/forward_rows.py [--model smollm2] [--dtype bfloat16] [--cached 256]

Direct calls: every row is contrasted, lazily skipped ones too.
"""

import argparse
import statistics
import time

import torch
from transformers import DynamicCache

import dola
from dola.bench.ways import synchronize
from dola.decoding.cost import forward_cost
from dola.model.hidden import cache_name

ROWS = (1, 2, 3, 4, 6, 8, 11, 16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--cached", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=12)
    args = parser.parse_args()
    model, _ = dola.load(args.model, dtype=args.dtype)
    ids = torch.randint(model.config.vocab_size, (1, args.cached + max(ROWS)), generator=torch.Generator().manual_seed(0))
    print(f"{args.model}, {args.dtype}, {args.cached} cached tokens, {torch.get_num_threads()} threads\n")
    print("| | one row, ms |", " | ".join(map(str, ROWS[1:])), "|\n|" + "---|" * (len(ROWS) + 1))
    print(line("plain", times(model, ids, args)))
    with dola.attach(model) as attached:
        print(line("DoLa, high", times(model, ids, args)))
        candidates, share = len(attached.layers), attached.anatomy.head_share
    settings = {"candidates": candidates, "head_share": share, "device": model.device.type, "dtype": model.dtype}
    print("| the model of it | |", " | ".join(f"x{forward_cost(n, **settings):.2f}" for n in ROWS[1:]), "|")


@torch.no_grad()
def times(model, ids, args) -> dict[int, float]:
    """Median seconds by the number of rows; all numbers take turns."""
    cache, name = DynamicCache(config=model.config), cache_name(model)
    model(ids[:, : args.cached], **{name: cache}, logits_to_keep=1)
    if hasattr(cache, "activate_past_recording"):
        cache.activate_past_recording()
    found = {n: [] for n in ROWS}
    for _ in range(args.repeats):
        for n in ROWS:
            synchronize(model.device)
            start = time.perf_counter()
            model(ids[:, args.cached : args.cached + n], **{name: cache}, logits_to_keep=n)
            synchronize(model.device)
            found[n].append(time.perf_counter() - start)
            cache.crop(-n)
    return {n: statistics.median(seconds) for n, seconds in found.items()}


def line(name, seconds) -> str:
    return f"| {name} | {1000 * seconds[1]:.1f} | {' | '.join(f'x{seconds[n] / seconds[1]:.2f}' for n in ROWS[1:])} |"


if __name__ == "__main__":
    main()
