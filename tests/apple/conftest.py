"""Tests of MLX, which runs on Linux CPUs too. Without it they are left out; with DOLA_MLX_REQUIRED set, that is an error."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from typing import Any

import pytest
from command import Ended, save

if find_spec("mlx_lm") is None:
    if os.environ.get("DOLA_MLX_REQUIRED"):
        raise RuntimeError("DOLA_MLX_REQUIRED is set, and mlx-lm is not installed")
    collect_ignore_glob = ["test_mlx_*.py"]


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model that transformers saved, with a chat template; both backends load it."""
    return save(tmp_path_factory.mktemp("tiny"), eos=2)


@pytest.fixture
def dola_command(monkeypatch, capsys):
    """Run `dola ...` in this process."""
    from dola.cli import main

    def run(*arguments: Any) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dola", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Ended(code, *capsys.readouterr())

    return run
