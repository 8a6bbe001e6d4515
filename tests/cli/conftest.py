"""Tiny models in folders, and the command run in this process."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
from command import Ended, save
from transformers.utils import logging as transformers_logging

from dola.cli import main


@pytest.fixture(autouse=True)
def _loud_afterwards(monkeypatch):
    """What the command switches off for a process is on again for the next test."""
    monkeypatch.setenv("TQDM_LEAVE", "")
    monkeypatch.setenv("TQDM_DISABLE", "1")
    verbosity, hub = transformers_logging.get_verbosity(), logging.getLogger("huggingface_hub").level
    yield
    transformers_logging.set_verbosity(verbosity)
    transformers_logging.enable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(hub)


@pytest.fixture
def dola_command(monkeypatch, capsys):
    """Run `dola ...` in this process."""

    def run(*arguments: Any) -> Ended:
        monkeypatch.setattr(sys, "argv", ["dola", *map(str, arguments)])
        code: Any = 0
        try:
            main()
        except SystemExit as stop:
            code = stop.code or 0
        return Ended(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """A tiny model with a chat template."""
    return save(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A tiny model without a chat template, whose tokenizer cannot pad."""
    return save(tmp_path_factory.mktemp("base"), template=None, pad_token=None, eos_token=None)
