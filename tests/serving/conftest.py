"""Engines for the tests of the vLLM plugin: real ones, on the CPU, started once each.

Everything here skips, with the reason, where vLLM is not installed: `make test-vllm-small` and `make test-vllm` make an
environment for it, in which a skip is a failure.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

os.environ |= {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TOKENIZERS_PARALLELISM": "false",
}

from engines import Engine, save_real, save_tiny


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip this folder without vLLM; with DOLA_VLLM_REQUIRED, as `make` sets it, fail instead."""
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        if os.environ.get("DOLA_VLLM_REQUIRED"):
            raise pytest.UsageError(f"vLLM is required here and cannot be imported: {error}") from error
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed; make test-vllm-small installs it"))


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "llama")


@pytest.fixture(scope="session")
def real_folder(smollm2: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_real(smollm2, tmp_path_factory.mktemp("real") / "smollm2")


@pytest.fixture(scope="module")
def tiny_engine(tiny_folder: Path) -> Any:
    with Engine(tiny_folder, {"layers": "high", "capture": "all", "default": "off"}) as engine:
        yield engine


@pytest.fixture(scope="module")
def real_engine(real_folder: Path) -> Any:
    with Engine(real_folder, {"layers": "high", "capture": "all", "default": "off"}, max_model_len=256) as engine:
        yield engine
