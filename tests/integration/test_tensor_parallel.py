"""`from_pretrained(..., tp_plan="auto")` under torchrun: two processes on the CPU, each with half of the weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from command import environment, save

SCRIPT = Path(__file__).parents[1] / "tensor_parallel_run.py"


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env=environment(OMP_NUM_THREADS="1"),
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_decode_as_one(tmp_path):
    folder = save(tmp_path / "model")
    run(SCRIPT, folder, tmp_path / "one")
    run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, SCRIPT, folder, tmp_path / "two")
    one, first, second = (json.loads((tmp_path / name).read_text()) for name in ("one.0", "two.0", "two.1"))
    assert first == second
    assert first["head"] == {"weights": "DTensor", "kernel": False}
    assert first["tokens"] == one["tokens"]
    assert one["tokens"]["plain"] == one["tokens"]["plain again"] != one["tokens"]["high"]
    for name, (found,) in first["likelihoods"].items():
        assert found == pytest.approx(one["likelihoods"][name][0], abs=2e-3)
