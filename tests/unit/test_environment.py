"""look_around: what it finds, how it reports what is missing, and which secrets it hides."""

import dataclasses
import os
from importlib import metadata
from types import SimpleNamespace

import pytest
import torch
import transformers

from dola.doctor import environment
from dola.doctor.environment import SECRETS, advice, look_around
from dola.installed.hints import install_line
from dola.loading import embedded


def test_versions_and_processor():
    found = look_around()
    assert found.packages["torch"].partition("+")[0] == torch.__version__.partition("+")[0]  # builds are named in one
    assert found.packages["transformers"] == transformers.__version__
    assert found.packages["dola-decoding"] == metadata.version("dola-decoding")
    assert 1 <= found.cpu.usable <= found.cpu.cores == os.cpu_count()
    assert found.cpu.torch_threads == torch.get_num_threads()
    assert found.cpu.memory > 10**8


def test_secrets_are_not_shown(monkeypatch):
    for name in SECRETS:
        monkeypatch.setenv(name, "hunter2")
    monkeypatch.setenv("NO_COLOR", "1")
    found = look_around()
    assert "hunter2" not in repr(found)
    assert {found.variables[name] for name in SECRETS} == {"set"}
    assert found.variables["NO_COLOR"] == "1"
    monkeypatch.delenv("HF_TOKEN")
    assert look_around().variables["HF_TOKEN"] is None


def test_accelerators(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    found = [dataclasses.astuple(device) for device in look_around().devices]
    assert found == [("cuda:0", "NVIDIA H100", 80 * 10**9), ("mps", "Apple GPU", None)]


def test_extras_and_what_they_lack(monkeypatch):
    declared = ["torch>=2.4", 'typer>=0.12; extra == "cli"', 'rich>=99; extra == "cli"', 'nowhere>=1; extra == "plot"']
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    cli, plot, *_ = look_around().extras
    assert (cli.name, cli.missing, cli.install) == ("cli", ("rich>=99",), install_line("cli"))
    assert (plot.name, plot.missing) == ("plot", ("nowhere>=1",))


def test_the_extras_of_this_distribution_are_declared():
    declared = set(metadata.metadata("dola-decoding").get_all("Provides-Extra"))
    assert set(environment.EXTRAS) <= declared


def test_a_source_tree_that_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert look_around().extras == ()


def test_a_system_that_does_not_report_its_memory(monkeypatch):
    monkeypatch.delattr(os, "sysconf")
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    found = look_around().cpu
    assert (found.memory, found.usable) == (None, found.cores)


@pytest.mark.parametrize(("platform", "asked"), [("linux", "g++"), ("darwin", "clang++"), ("win32", "cl")])
def test_the_compiler_of_each_system(monkeypatch, platform, asked):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(environment.sys, "platform", platform)
    monkeypatch.setattr(environment.shutil, "which", lambda name: f"/bin/{name}")
    assert environment._compiler() == f"/bin/{asked}"
    monkeypatch.setenv("CXX", "ccache g++-13")
    assert environment._compiler() == "/bin/ccache"
    monkeypatch.setenv("CXX", "  ")
    assert environment._compiler() == f"/bin/{asked}"


@pytest.mark.parametrize(("reason", "said"), [(None, "in use"), ("no C compiler found", "not in use: no C compiler found")])
def test_whether_the_kernels_are_in_use(monkeypatch, reason, said):
    monkeypatch.setattr("dola.native.why_not", lambda: reason)
    assert look_around().kernels == said


def test_advice(monkeypatch, tmp_path):
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path))
    (tmp_path / embedded.EMBEDDED["smollm2"].file).write_bytes(b"GGUF")
    found = dataclasses.replace(look_around(), compiler=None)
    found = dataclasses.replace(found, cpu=dataclasses.replace(found.cpu, usable=8, torch_threads=2), devices=())
    threads, compiler, damaged = advice(found)
    assert threads.startswith("torch uses 2 of 8 cores")
    assert compiler.startswith("No C++ compiler was found")
    assert damaged.endswith("dola models pull smollm2")
    whole = dataclasses.replace(found, compiler="/bin/g++", models=(), cpu=dataclasses.replace(found.cpu, torch_threads=8))
    assert advice(whole) == []
