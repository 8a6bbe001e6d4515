"""Does anything grow? Thousands of generations on one tiny model, by `attach`, `dola.generate` and `install` in turns.

    python benchmarks/soak.py                             10,000 generations, into benchmarks/results/soak.log
    python benchmarks/soak.py --generations 300 --log -   fewer, on the terminal

Watched: resident memory, Python objects and tensors, hooks, attributes of the model, threads. After a tenth of the generations,
when caches are warm, memory may grow by 1% (the allocator's), objects by 200 (the interpreter's), and the rest not at all.
`tests/unit/test_soak.py` runs a short one.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch

import dola

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from families import tiny  # noqa: E402

LOG = ROOT / "benchmarks" / "results" / "soak.log"


class State(NamedTuple):
    """What must not grow."""

    resident: float
    objects: int
    tensors: int
    hooks: int
    attributes: int
    threads: int


def state(model: Any) -> State:
    """A look at this process: memory in MB, the rest in numbers."""
    gc.collect()
    objects = gc.get_objects()
    modules = list(model.modules())
    return State(
        resident=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
        objects=len(objects),
        tensors=sum(issubclass(type(thing), torch.Tensor) for thing in objects),
        hooks=sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules),
        attributes=sum(len(module.__dict__) for module in modules),
        threads=threading.active_count(),
    )


def generations(model: Any, count: int) -> Any:
    """Generate `count` times, in ways that differ, a failing one among them; yields after each."""
    prompt = torch.tensor([[5, 17, 200, 33]])
    settings = {"max_new_tokens": 4, "do_sample": False, "repetition_penalty": 1.2}
    for number in range(count):
        layers = ("high", "low", [1, 3])[number % 3]
        way = number % 4
        if way == 0:
            with dola.attach(model, layers):
                model.generate(prompt, **settings)
        elif way == 1:
            dola.generate(model, prompt, dola_layers=layers, **settings)
        elif way == 2:
            dola.install(dola.DoLaConfig.reference())
            model.generate(prompt, dola_layers=layers, **settings)
            dola.uninstall()
        else:
            try:
                dola.generate(model, prompt, dola_layers=layers, assistant_early_exit=2, **settings)
            except dola.errors.InputError:
                pass
            else:
                raise AssertionError("assistant_early_exit was not refused")
        yield number + 1


def soak(count: int, say: Any) -> tuple[State, State]:
    """Run, say how it goes ten times, and return the states after a tenth and at the end."""
    model = tiny("llama")
    start, marks = time.monotonic(), []
    say(f"{count} generations, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}")
    say("done      seconds  MB resident  objects  tensors  hooks  attributes  threads")
    for done in generations(model, count):
        if done % max(1, count // 10) == 0:
            marks.append(state(model))
            numbers = "  ".join(f"{value:>{width}.{digits}f}" for value, width, digits in zip(
                marks[-1], (11, 7, 7, 5, 10, 7), (1, 0, 0, 0, 0, 0), strict=True))  # fmt: skip
            say(f"{done:<8}  {time.monotonic() - start:7.0f}  {numbers}")
    return marks[0], marks[-1]


def grown(first: State, last: State, *, memory: float) -> list[str]:
    """What has grown, in words; memory may by that share."""
    found = (
        [f"resident memory: {first.resident:.1f} to {last.resident:.1f} MB"]
        if last.resident > first.resident * (1 + memory)
        else []
    )
    for name in State._fields[1:]:
        before, after = getattr(first, name), getattr(last, name)
        slack = 200 if name == "objects" else 0  # caches of the interpreter
        if after > before + slack:
            found.append(f"{name}: {before} to {after}")
    return found


def main() -> None:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=10_000)
    parser.add_argument("--log", default=str(LOG), help="a file, or - for the terminal alone")
    given = parser.parse_args()
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)

    found = grown(*soak(given.generations, say), memory=0.01)
    say("grown: " + ("nothing" if not found else "; ".join(found)))
    if given.log != "-":
        Path(given.log).write_text("\n".join(lines) + "\n")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
