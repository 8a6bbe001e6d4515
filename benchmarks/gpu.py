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
from tempfile import TemporaryDirectory

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
                with run.part(name, f"{shape}, {'compiled' if compiled else 'eager'}") as allowed:
                    if allowed:
                        result = part(model, source, args, compiled=compiled, batch_size=batch_size)
                        run.keep(args.folder / f"{name}.json", result, markdown(result))
        if args.host:
            with run.part(f"{shape}-host", "host") as allowed:
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
        self.start, self.minutes, self.longest = time.monotonic(), minutes, {}
        self.tables, self.left_out = [], []

    def say(self, line) -> None:
        print(f"[{time.monotonic() - self.start:.0f} s] {line}", file=sys.stderr, flush=True)

    def left(self) -> float:
        """Seconds that are left."""
        return 60 * self.minutes - (time.monotonic() - self.start)

    @contextmanager
    def part(self, name, kind):
        """Yields whether there is time for a part: as much as the longest one of its kind took.

        One that fails must not cost the others, which run on rented time.
        """
        began = time.monotonic()
        if self.left() <= self.longest.get(kind, 0.0):
            self.left_out.append(f"{name}: no time left")
            yield False
            return
        self.say(name)
        try:
            yield True
        except Exception as error:
            self.left_out.append(f"{name}: {type(error).__name__}: {(str(error).strip() or '?').splitlines()[0][:200]}")
            traceback.print_exc()
        self.longest[kind] = max(self.longest.get(kind, 0.0), time.monotonic() - began)

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
    memory = ["--memory", str(args.memory)]
    with TemporaryDirectory() as folder:  # gigabytes, so not among the results
        with run.part("vllm-model", "vLLM") as allowed:
            if allowed:
                Source(args.serving, "bfloat16", "cpu", random_weights=True).load().model.save_pretrained(folder)
        for script, options in {"vllm_tokens": [], "vllm_throughput": ["--dtype", "bfloat16", "--graphs"]}.items():
            with run.part(script, "vLLM") as allowed:
                if allowed:
                    command = [sys.executable, str(Path(__file__).with_name(f"{script}.py")), folder, *options, *memory]
                    done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, run.left()))
                    (args.folder / f"{script}.log").write_text(f"{done.stdout}\n{done.stderr}", encoding="utf-8")
                    run.tables.append(f"{script}\n\n{done.stdout}")
                    if done.returncode:
                        *_, last = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()] or ["?"]
                        raise RuntimeError(f"ended with {done.returncode}: {last}")


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
