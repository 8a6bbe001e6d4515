"""Other ways of running an engine: several workers, the other model runner, compiled. Each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import command

TWO_CPUS = {"VLLM_CPU_OMP_THREADS_BIND": "0|1"}
V2 = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
SETUPS = {
    "tensor parallel": ({"tensor_parallel_size": 2}, TWO_CPUS),
    "pipeline parallel, compiled": ({"pipeline_parallel_size": 2, "enforce_eager": False}, TWO_CPUS),
    "pipeline of three, compiled": (
        {"pipeline_parallel_size": 3, "enforce_eager": False},
        {"VLLM_CPU_OMP_THREADS_BIND": "0|1|0"},
    ),
    "compiled": ({"enforce_eager": False}, {}),
    "runner V2": ({"max_num_seqs": 8}, V2),
}


def decode(folder: Path, name: str, requests: list[Any], **more: Any) -> list[list[list[int]]]:
    """The tokens of requests in the setup of that name, with more settings of vLLM.

    Each request is a dict of `prompts`, DoLa `options`, `sampling` parameters, and the folders of `adapters`, if there are any.
    """
    settings, variables = SETUPS[name]
    run = [
        sys.executable,
        str(Path(__file__).with_name("run_setup.py")),
        str(folder),
        json.dumps({**settings, **more}),
        json.dumps(requests),
    ]
    ended = subprocess.run(run, capture_output=True, text=True, check=False, env=command.environment(**variables), timeout=900)
    line = next((line for line in ended.stdout.splitlines() if line.startswith("TOKENS")), None)
    assert line is not None, (ended.stdout + ended.stderr)[-4000:]
    return json.loads(line.removeprefix("TOKENS"))
