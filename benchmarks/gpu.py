"""DoLa on one GPU, with no network: models of the shapes of Llama-3-8B and Qwen3-8B in bfloat16, with random weights.

    python benchmarks/gpu.py FOLDER [--minutes 8]

Plain greedy decoding, DoLa and the code of transformers 4 at batch sizes 1 and 32, with the dynamic cache, and the first two
with the static cache and generate's own compilation (CUDA graphs). Then where a compiled step's time goes (gpu_host.py). Then,
if vLLM is installed, a model of 1B with random weights in it: its tokens beside transformers' (vllm_tokens.py) and tokens per
second (vllm_throughput.py), with CUDA graphs.

Each part is written to FOLDER as soon as it is done, the first ones in the schema dola.bench/1; what the time does not allow,
or what fails, is named; the tables come last on stdout.
"""

import argparse
import gc
import json
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import gpu_host
import torch
from tables import markdown

from dola.bench.cases import random_case
from dola.bench.measure import measure
from dola.bench.source import SHAPES, Source
from dola.bench.ways import Settings


def main(arguments=None) -> int:
    args = arguments_of(arguments)
    args.folder.mkdir(parents=True, exist_ok=True)
    run = Run(args.minutes)
    for shape in args.shapes.split(","):
        source = Source(shape, args.dtype, args.device, random_weights=True)
        model = source.load().model
        run.say(f"{shape} on {model.device}")
        for compiled in [cache == "static" for cache in args.caches.split(",")]:
            for batch_size in map(int, args.batch_sizes.split(",")):
                name = f"{shape}-batch{batch_size}-{'static-compiled' if compiled else 'dynamic'}"
                with run.part(name) as allowed:
                    if allowed:
                        result = part(model, source, args, compiled=compiled, batch_size=batch_size)
                        run.keep(args.folder / f"{name}.json", result, markdown(result))
        if args.host:
            with run.part(f"{shape}-host") as allowed:
                if allowed:
                    found = gpu_host.where_time_goes(model)
                    run.keep(args.folder / f"{shape}-host.json", found, f"{shape}\n\n{gpu_host.table(found)}")
        del model
        free()
    if args.serving:
        serve(run, args)
    return run.end()


class Run:
    """What has been done and what was left out, within the minutes that are allowed."""

    def __init__(self, minutes: float) -> None:
        self.start, self.minutes, self.longest = time.monotonic(), minutes, 0.0
        self.tables, self.left_out = [], []

    def say(self, line) -> None:
        print(f"[{time.monotonic() - self.start:.0f} s] {line}", file=sys.stderr, flush=True)

    @contextmanager
    def part(self, name):
        """Yields whether there is time for a part. One that fails must not cost the others, which run on rented time."""
        began = time.monotonic()
        if began - self.start + self.longest > 60 * self.minutes:  # the next part takes at least as long as the longest so far
            self.left_out.append(f"{name}: no time left")
            yield False
            return
        self.say(name)
        try:
            yield True
        except Exception as error:
            self.left_out.append(f"{name}: {type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}")
            traceback.print_exc()
        self.longest = max(self.longest, time.monotonic() - began)

    def keep(self, file, result, table) -> None:
        file.write_text(json.dumps(result) + "\n", encoding="utf-8")
        self.tables.append(table)

    def end(self) -> int:
        print(*self.tables, sep="\n\n", end="\n\n")
        print(*(f"left out: {line}" for line in self.left_out), sep="\n")
        print(f"{time.monotonic() - self.start:.0f} s in all")
        return 1 if self.left_out else 0


def serve(run, args) -> None:
    """The parts in vLLM, each in a process of its own, which gives its memory back."""
    if find_spec("vllm") is None:
        run.left_out.append("vLLM: not installed")
        return
    folder = args.folder / args.serving
    if not folder.is_dir():
        Source(args.serving, "bfloat16", "cpu", random_weights=True).load().model.save_pretrained(folder)
    memory = ["--memory", str(args.memory)]
    for name, command in {
        "vllm-tokens": ["vllm_tokens.py", str(folder), *memory],
        "vllm-throughput": ["vllm_throughput.py", str(folder), "--dtype", "bfloat16", "--graphs", *memory],
    }.items():
        with run.part(name) as allowed:
            if allowed:
                script = [sys.executable, str(Path(__file__).with_name(command[0])), *command[1:]]
                done = subprocess.run(script, capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{command[0]} ended with {done.returncode}: {(done.stdout or done.stderr)[-400:]}")
                run.keep(args.folder / f"{name}.json", {"output": done.stdout}, f"{name}\n\n{done.stdout}")


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
    parser.add_argument("--host", action=argparse.BooleanOptionalAction, default=True, help="profile a compiled step")
    parser.add_argument("--serving", default="llama-3.2-1b", help="the shape of the model in vLLM; empty for none")
    parser.add_argument("--memory", type=float, default=0.4, help="share of the memory that vLLM takes")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    raise SystemExit(main())
