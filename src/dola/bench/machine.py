"""The machine and versions of a measurement, without which its times mean nothing."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

import torch
import transformers

from dola._version import __version__
from dola.doctor.environment import usable_cores

SPEED_VARIABLES = ("DOLA_NATIVE", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
"""Environment variables that change speed or memory."""


@dataclass(frozen=True)
class Machine:
    """The machine, the versions and the date of a measurement.

    Attributes:
        date: Date and time in UTC, ISO 8601.
        processor: Name of the CPU.
        cores: CPU cores that this process may use.
        threads: Threads that torch uses for one operation.
        accelerator: Name of the GPU, or None.
        system: Operating system and its version.
        versions: Versions of Python, torch, transformers and dola.
        environment: The variables that change speed and are set.
    """

    date: str
    processor: str
    cores: int
    threads: int
    accelerator: str | None
    system: str
    versions: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)

    @classmethod
    def here(cls, device: torch.device) -> Machine:
        """This machine, as a benchmark on `device` sees it."""
        return cls(
            date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            processor=_processor(),
            cores=usable_cores(),
            threads=torch.get_num_threads(),
            accelerator=torch.cuda.get_device_name(device) if device.type == "cuda" else None,
            system=platform.platform(),
            versions={
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "dola": __version__,
            },
            environment={name: os.environ[name] for name in SPEED_VARIABLES if name in os.environ},
        )

    def describe(self) -> str:
        """One line for people."""
        what = self.accelerator or f"{self.processor}, {self.cores} cores, {self.threads} threads"
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return f"{what}; {versions}; {self.date}"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
