"""DoLa on one GPU, with no network: models of the shapes of Llama-3-8B and Qwen3-8B in bfloat16, with random weights.

    python benchmarks/gpu.py FOLDER [--minutes 8]

Plain greedy decoding, DoLa and the code of transformers 4 at batch sizes 1 and 32, with the dynamic cache, and the first two
with the static cache and generate's own compilation (CUDA graphs). Each part is written to FOLDER as soon as it is done, in the
schema dola.bench/1; what the time does not allow, or what fails, is named; the tables come last on stdout.
"""

import argparse
import gc
import json
import sys
import time
import traceback
from pathlib import Path

import torch
from tables import markdown

from dola.bench.cases import random_case
from dola.bench.measure import measure
from dola.bench.source import SHAPES, Source
from dola.bench.ways import Settings


def main(arguments=None) -> int:
    args = arguments_of(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    start, results, left_out = time.monotonic(), [], []
    for shape in args.shapes.split(","):
        source = Source(shape, args.dtype, args.device, random_weights=True)
        model = source.load().model
        say(start, f"{shape} on {model.device}")
        for compiled in [cache == "static" for cache in args.caches.split(",")]:
            longest = 0.0
            for batch_size in map(int, args.batch_sizes.split(",")):
                name = f"{shape}-batch{batch_size}-{'static-compiled' if compiled else 'dynamic'}"
                began = time.monotonic()
                if began - start + longest > 60 * args.minutes:  # the next part takes at least as long as the one before it
                    left_out.append(f"{name}: no time left")
                    continue
                say(start, name)
                try:
                    result = part(model, source, args, compiled=compiled, batch_size=batch_size)
                except Exception as error:  # one part that fails must not cost the others, which ran on rented time
                    left_out.append(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
                    traceback.print_exc()
                else:
                    results.append(result)
                    (args.folder / f"{name}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
                longest = max(longest, time.monotonic() - began)
        del model
        free()
    for result in results:
        print(markdown(result), end="\n\n")
    print(*(f"left out: {line}" for line in left_out), sep="\n")
    print(f"{time.monotonic() - start:.0f} s in all")
    return 1 if left_out else 0


def part(model, source, args, *, compiled, batch_size):
    """One JSON object of the schema dola.bench/1."""
    settings = Settings(
        new_tokens=args.new_tokens,
        repeats=args.repeats,
        cache="static" if compiled else "dynamic",
        compile=compiled,
        old=not compiled,  # transformers 4 did not compile it
        memory=model.device.type == "cuda",
    )
    shape = {"batch_size": batch_size, "length": args.prompt_length, "batches": 1}
    case = random_case(model.config.vocab_size, **shape)
    result = measure(model, [case], settings, source=source, progress=lambda line: print(line, file=sys.stderr))
    free()
    return {"schema": "dola.bench/1", "dola": result.machine.versions["dola"], **result.to_json()}


def free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def say(start, line) -> None:
    print(f"[{time.monotonic() - start:.0f} s] {line}", file=sys.stderr, flush=True)


def arguments_of(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=7.5, help="no part is begun that would not end by then")
    parser.add_argument("--shapes", default="llama-3-8b,qwen3-8b", help=", ".join(SHAPES))
    parser.add_argument("--batch-sizes", default="1,32")
    parser.add_argument("--caches", default="dynamic,static", help="dynamic runs eagerly, static is compiled")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--prompt-length", type=int, default=128)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
