"""Peak memory of a generation.

On CUDA the allocator counts. On a CPU a process has one peak, so each way runs in a process of its own, which loads the model,
decodes two tokens so that all weights are in memory, has the kernel forget the peak so far (Linux), and decodes.
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
    """Peak memory of one generation for prompts [B, T], or None where it cannot be told: a CPU and no source.

    Raises:
        InputError: The process that measures failed, for instance for lack of memory.
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
            f"The process that measures the memory of {way.name} failed: {last}", hint="leave it out with --no-memory"
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
    """Carry out one order in this process, which ought to be fresh."""
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
    """Have the kernel start anew with the peak of resident memory, where it can. Returns what the peak will then be.

    What loading freed is handed back first, or a generation would grow into it unseen.
    """
    with suppress(OSError, AttributeError, TypeError):  # of glibc alone
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
