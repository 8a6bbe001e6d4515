"""How DoLa's cost grows with the batch and with the number of candidate layers K, beside what it must cost at least.

    python benchmarks/sweep.py [--model smollm2] [--dtype bfloat16] [--batch-sizes 1,4,16,32] [--ks 1,2,4,8,all] [--json FILE]

The model of the cost of one step, with d the width, V the vocabulary, u the share of positions with more than one plausible
token (the others need no premature readout), and bandwidth and rate measured here at the start:

    product(n) = max(bytes of the head's weights / bandwidth, 2 n d V / rate)       n rows through the LM head
    floor      = product(B + u K B) - product(B)                                     all rows in one product
                 + bytes of (B + u K B + B) rows of V in float32 / bandwidth         read all logits once, write the scores
    gap        = measured extra time - floor

The bandwidth is that of reading one large tensor, the rate that of a square matrix product in the model's dtype.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch

import dola
from dola.bench.cases import cut_case, random_case, texts
from dola.bench.machine import Machine
from dola.bench.measure import measure
from dola.bench.source import Source
from dola.bench.ways import Bench, Settings, Way, synchronize
from dola.text.encoding import Encoder


def main(arguments=None) -> None:
    args = arguments_of(arguments)
    source = Source(args.random_weights or args.model, args.dtype, args.device, bool(args.random_weights))
    model, tokenizer = source.load()
    device, blocks = torch.device(model.device), dola.Anatomy.of(model).num_layers
    bandwidth, rate = measured_bandwidth(device), measured_rate(device, model.dtype)
    print(f"bandwidth {bandwidth / 1e9:.1f} GB/s, {model.dtype} products {rate / 1e9:.0f} Gflop/s", file=sys.stderr)
    rows = []
    for batch_size in map(int, args.batch_sizes.split(",")):
        for k in ks(args.ks, blocks):
            shape = {"batch_size": batch_size, "length": args.prompt_length, "batches": min(args.repeats, 4)}
            if tokenizer is None:
                case = random_case(model.config.vocab_size, **shape)
            else:
                case = cut_case(Encoder.of(model, tokenizer), texts("mixed"), **shape)
            rows.append(row(model, case, k, blocks, bandwidth, rate, args))
            print(rows[-1], file=sys.stderr)
    machine = Machine.here(device)
    report(rows, machine, source, bandwidth, rate)
    if args.json:
        found = {"machine": asdict(machine), "source": asdict(source), "bandwidth": bandwidth, "rate": rate, "rows": rows}
        args.json.write_text(json.dumps(found) + "\n", encoding="utf-8")


def row(model, case, k, blocks, bandwidth, rate, args):
    """Measured and least times of one batch size and one number of candidates, in seconds."""
    layers = candidates(k, blocks)
    settings = Settings(dola=dola.DoLaConfig(layers), new_tokens=args.new_tokens, repeats=args.repeats, old=False, memory=False)
    greedy, contrasted, again = measure(model, [case], settings).cases[0].ways
    share = undecided(model, case, settings)
    extra = contrasted.token_s.median - greedy.token_s.median
    least = floor(model, case.batch_size, k, share, bandwidth, rate)
    return {
        "batch_size": case.batch_size,
        "k": k,
        "undecided": share,
        "greedy_s": greedy.token_s.median,
        "dola_s": contrasted.token_s.median,
        "ratio": asdict(contrasted.token_ratio),
        "noise": asdict(again.token_ratio),
        "extra_s": extra,
        "floor_s": least,
        "gap_s": extra - least,
    }


def floor(model, batch_size, k, undecided_share, bandwidth, rate) -> float:
    """The least that the contrast of one step can add to a plain step, in seconds."""
    head = model.get_output_embeddings().weight
    vocabulary, width = head.shape
    premature = undecided_share * k * batch_size

    def product(rows):
        return max(head.numel() * head.element_size() / bandwidth, 2 * rows * width * vocabulary / rate)

    passes = (2 * batch_size + premature) * vocabulary * 4 / bandwidth
    return product(batch_size + premature) - product(batch_size) + passes


def undecided(model, case, settings) -> float:
    """Share of positions in which DoLa needs the premature layers at all, over the case's prompts."""
    rows = saved = 0
    with Bench(model, settings) as bench:
        for prompts in case.prompts:
            with dola.attach(model, settings.dola) as attachment:
                bench.run(Way("dola", dola=True), prompts)
            rows, saved = rows + attachment.rows, saved + attachment.rows_saved
    return 1 - saved / rows


def candidates(k, blocks) -> tuple[int, ...]:
    """K layers spread evenly over the upper half, or over all where the half is too small."""
    low = blocks // 2 if k <= blocks - blocks // 2 else 0
    return tuple(sorted({low + i * (blocks - low) // k for i in range(k)}))


def ks(given, blocks) -> list[int]:
    found = [blocks if part == "all" else int(part) for part in given.split(",")]
    return sorted({k for k in found if 1 <= k <= blocks})


def measured_bandwidth(device) -> float:
    """Bytes per second of reading a tensor of 512 MiB."""
    tensor = torch.ones(2**27, device=device)
    return tensor.numel() * 4 / best_time(tensor.sum, device)


def measured_rate(device, dtype) -> float:
    """Operations per second of a square matrix product."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.ones(n, n, device=device, dtype=dtype) for _ in "ab")
    return 2 * n**3 / best_time(lambda: a @ b, device)


def best_time(function, device, repeats=7) -> float:
    """The shortest of some times: what the machine can do, not what it did beside other work."""
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


def report(rows, machine, source, bandwidth, rate) -> None:
    print(
        f"{source.model}, {source.dtype}; {machine.describe()}; bandwidth {bandwidth / 1e9:.1f} GB/s, "
        f"products {rate / 1e9:.0f} Gflop/s\n"
    )
    print("| batch | K | undecided | greedy, ms | DoLa, ms | over greedy | noise | extra, ms | floor, ms | gap, ms |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        ms = [f"{1000 * r[name]:.2f}" for name in ("greedy_s", "dola_s", "extra_s", "floor_s", "gap_s")]
        ratios = [f"x{r[name]['median']:.3f} [{r[name]['min']:.2f}-{r[name]['max']:.2f}]" for name in ("ratio", "noise")]
        print(f"| {r['batch_size']} | {r['k']} | {r['undecided']:.0%} | {' | '.join([*ms[:2], *ratios, *ms[2:]])} |")
    print(f"\nMedian gap {1000 * statistics.median(r['gap_s'] for r in rows):.2f} ms.")


def arguments_of(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--random-weights", default="", help="a shape instead of a model, as dola bench knows them")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch-sizes", default="1,4,16,32")
    parser.add_argument("--ks", default="1,2,4,8,all")
    parser.add_argument("--prompt-length", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
