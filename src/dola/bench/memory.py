"""Peak memory of a generation.

On CUDA the allocator counts. On a CPU a process has a single peak, so each way runs in its own process. It loads the model,
decodes two tokens so that all weights are in memory, makes the kernel forget the peak so far (Linux), and decodes.
"""

from __future__ import annotations

import ctypes
import gc
import json
import re
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dola.bench.results import Memory
from dola.bench.source import Source
from dola.bench.ways import Bench, Settings, Way
from dola.errors import InputError
from dola.methods.registry import config_of

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_memory(bench: Bench, way: Way, prompts: Tensor, source: Source | None) -> Memory | None:
    """Peak memory of one generation for prompts [B, T], or None if it cannot be measured: on a CPU without a source.

    Raises:
        InputError: The measuring process failed, for instance because memory ran out.
    """
    if bench.device.type == "cuda":
        return _on_cuda(bench, way, prompts)
    if source is None or bench.device.type != "cpu":
        return None
    order = {
        "source": asdict(source),
        "settings": bench.settings.as_dict(),
        "way": asdict(way),
        "threads": torch.get_num_threads(),
        "prompts": prompts.tolist(),
    }
    command = [sys.executable, "-m", "dola.bench.memory"]
    done = subprocess.run(command, input=json.dumps(order), capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit code {done.returncode}").splitlines()[-1]
        raise InputError(
            f"The process that measures the memory of {way.name} failed: {last}", hint="skip the measurement with --no-memory"
        )
    return Memory(**json.loads(done.stdout.splitlines()[-1]))


def _on_cuda(bench: Bench, way: Way, prompts: Tensor) -> Memory:
    with bench.made_ready(way):
        bench.settle(way, prompts)
        gc.collect()
        torch.cuda.reset_peak_memory_stats(bench.device)
        before = torch.cuda.memory_allocated(bench.device)
        bench.run(way, prompts)
        return Memory(torch.cuda.max_memory_allocated(bench.device), before, "torch.cuda.max_memory_allocated")


def measure_here(order: dict[str, Any]) -> Memory:
    """Carry out one order in this process, which should be new."""
    torch.set_num_threads(order["threads"])
    dola = config_of(order["settings"].pop("dola"))
    settings, way = Settings(dola=dola, **order["settings"]), Way(**order["way"])
    prompts = torch.tensor(order["prompts"])
    with Bench(Source(**order["source"]).load(lambda line: None).model, settings) as bench, bench.made_ready(way):
        bench.settle(way, prompts)
        gc.collect()
        method = _forget_peak()
        before = _resident("VmRSS")
        bench.run(way, prompts)
        return Memory(_resident("VmHWM"), before, method)


def _forget_peak() -> str:
    """Reset the kernel's peak of resident memory, if possible. Returns a description of the peak.

    Memory freed after loading is returned to the system first; otherwise a generation could grow into it unnoticed.
    """
    with suppress(OSError, AttributeError, TypeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
    try:
        CLEAR.write_text("5")
    except OSError:
        return "peak resident memory since the process began, loading included"
    return "peak resident memory after loading (VmHWM)"


def _resident(name: str) -> int:
    """Resident memory of this process in bytes: "VmRSS" now, "VmHWM" at its peak."""
    if STATUS.exists() and (found := re.search(rf"{name}:\s+(\d+) kB", STATUS.read_text())):
        return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


if __name__ == "__main__":
    print(json.dumps(asdict(measure_here(json.load(sys.stdin)))))
