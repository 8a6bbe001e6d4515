"""What takes the time of a compiled step on one GPU: the device's work, and the host's between the graphs.

    python benchmarks/gpu_host.py FOLDER [--shape llama-3-8b]

Greedy decoding and DoLa are profiled one after the other, each for two lengths: their difference has neither the prompt nor
what a call does once. Time in which the device works is the sum of its kernels; the rest of a step is the host's: Python
between the compiled graphs, guards, launches. `gpu.py` runs this too.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dola.bench.cases import random_case
from dola.bench.source import Source
from dola.bench.ways import Bench, Settings

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cudaGraphLaunch")
SHOWN = 8
SHORT = 4
"""Tokens of the shorter run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", default="llama-3-8b")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    model = Source(given.shape, "bfloat16", given.device, random_weights=True).load().model
    found = where_time_goes(model)
    given.folder.mkdir(parents=True, exist_ok=True)
    (given.folder / f"{given.shape}-host.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(table(found))


def where_time_goes(
    model: Any, *, new_tokens: int = 32, prompt_length: int = 128, compiled: bool = True
) -> dict[str, dict[str, Any]]:
    """For greedy decoding and DoLa: ms of a step, of the device and of the host; launches; the host's longest functions."""
    settings = Settings(new_tokens=new_tokens, repeats=1, cache="static", compile=compiled, old=False, memory=False)
    case = random_case(model.config.vocab_size, batch_size=1, length=prompt_length, batches=1)
    found = {}
    with Bench(model, settings) as bench:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])]
        for way in settings.ways()[:2]:
            with bench.made_ready(way):
                for _ in range(3):  # compiled in the first call, recorded as CUDA graphs in those after it
                    plain = bench.run(way, case.prompts[0])
                totals = []
                for tokens in (SHORT, SHORT + new_tokens):
                    with profile(activities=activities) as profiled:
                        bench.run(way, case.prompts[0], tokens)
                    totals.append(_totals(profiled.key_averages()))
            found[way.name] = _figures(*totals, new_tokens, 1000 * plain.token_s)
    return found


def _totals(events: Any) -> dict[str, Any]:
    """Microseconds of the device, launches, and microseconds of each of the host's functions."""
    on_host = [event for event in events if event.device_type == DeviceType.CPU]
    return {
        "device": sum(event.self_device_time_total for event in events if event.device_type != DeviceType.CPU),
        "launches": sum(event.count for event in events if event.key in LAUNCHES),
        "functions": Counter({event.key[:60]: event.self_cpu_time_total for event in on_host}),
    }


def _figures(short: dict[str, Any], whole: dict[str, Any], steps: int, step_ms: float) -> dict[str, Any]:
    """Figures of a step. Times of functions are those under the profiler, which slows them; the step's time is not."""
    busy = (whole["device"] - short["device"]) / steps / 1000
    longest = (whole["functions"] - short["functions"]).most_common(SHOWN)
    return {
        "step_ms": step_ms,
        "device_ms": busy or None,
        "host_ms": step_ms - busy if busy else None,
        "launches": (whole["launches"] - short["launches"]) / steps,
        "functions": {name: microseconds / steps / 1000 for name, microseconds in longest},
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """The figures in Markdown, with the host's longest functions."""
    lines = ["| | step, ms | device, ms | host, ms | launches a step |", "|---|---|---|---|---|"]
    for way, each in found.items():
        times = [each[name] for name in ("step_ms", "device_ms", "host_ms")]
        cells = " | ".join("not known" if time is None else f"{time:.2f}" for time in times)
        lines.append(f"| {way} | {cells} | {each['launches']:.1f} |")
    for way, each in found.items():
        lines.append(f"\n{way}: " + ", ".join(f"{name} {time:.3f}" for name, time in each["functions"].items()))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
