"""Where a compiled step's time goes on one GPU: the device's work, and the host's between the graphs.

    python benchmarks/gpu_host.py FOLDER [--shape llama-3-8b]

Greedy decoding and DoLa are profiled one after the other. Time in which the device works is the sum of its kernels; the rest
of a step is the host's: Python between the compiled graphs, guards, launches. `gpu.py` runs this after its tables.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from dola.bench.cases import random_case
from dola.bench.source import Source
from dola.bench.ways import Bench, Settings

LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cudaGraphLaunch")
SHOWN = 8


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
        for way in settings.ways()[:2]:
            with bench.made_ready(way):
                for _ in range(3):  # compiled in the first call, recorded as CUDA graphs in those after it
                    plain = bench.run(way, case.prompts[0])
                activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.device.type == "cuda" else [])]
                with profile(activities=activities) as profiled:
                    bench.run(way, case.prompts[0])
            found[way.name] = _figures(profiled.key_averages(), plain.steps, 1000 * plain.token_s)
    return found


def _figures(events: Any, steps: int, step_ms: float) -> dict[str, Any]:
    """Figures of one way. Times of functions are those under the profiler, which slows them; the step's time is not."""
    busy = sum(event.self_device_time_total for event in events if event.device_type != DeviceType.CPU) / steps / 1000
    host = sorted((event for event in events if event.device_type == DeviceType.CPU), key=lambda e: -e.self_cpu_time_total)
    return {
        "step_ms": step_ms,
        "device_ms": busy or None,
        "host_ms": step_ms - busy if busy else None,
        "launches": sum(event.count for event in events if event.key in LAUNCHES) / steps,
        "functions": {event.key[:60]: event.self_cpu_time_total / steps / 1000 for event in host[:SHOWN]},
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
