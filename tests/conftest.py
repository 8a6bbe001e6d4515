"""Fixtures: tiny random models for all tests, the embedded real models, and benchmark data where available."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, which reads it once

import pytest
import torch
from families import FAMILIES, Family, tiny
from toy_method import installed

import dola
from dola.errors import DownloadError, MissingExtraError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where there are several processes: a file stays in one of them, and files with real models, slow to load, in the same.

    Not by marks of pytest-xdist: version 3.8 does not see them under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "real models" if Path(file).name in REAL_MODELS else file

    return Scheduling(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest start first, so that no process waits for one at the end. `make test` keeps this order."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


LONGEST = ("test_golden.py", "test_doors.py", "test_compiled.py", "test_notebook.py", "test_terminal.py", "test_eval.py",
           "test_mlx_gemma3.py", "test_mlx_smollm2.py")  # fmt: skip
REAL_MODELS = ("test_compare.py", "test_doctor.py", "test_golden.py", "test_real_models.py", "test_readme.py", "test_site.py")


@pytest.fixture(scope="session")
def llama() -> Any:
    """One shared tiny model. Tests attach to it with `with`, so that it is plain again afterwards."""
    return tiny("llama")


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """An installed package that adds a method; options that choose it."""
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(installed(tmp_path / "packages"))
    return "--method", "toy", "--set", "rate=0.9"


@pytest.fixture(params=sorted(FAMILIES), scope="module")
def family(request: pytest.FixtureRequest) -> tuple[Family, Any]:
    return FAMILIES[request.param], tiny(request.param)


@pytest.fixture
def _without_collecting_garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of the benchmark: it takes longer than all else there, with what a test process holds."""
    monkeypatch.setattr("dola.bench.ways.gc.collect", lambda: None)


@pytest.fixture(autouse=True)
def _plain_afterwards(request: pytest.FixtureRequest) -> Any:
    """No test may leave the shared model attached."""
    yield
    if "llama" in request.fixturenames:
        model = request.getfixturevalue("llama")
        assert not hasattr(model, "dola")


def _real(alias: str) -> Any:
    try:
        return dola.load(alias, progress=lambda line: None)
    except (DownloadError, MissingExtraError) as error:
        pytest.skip(f"{alias} cannot be had here: {error.message}")


@pytest.fixture(scope="session")
def smollm2() -> Any:
    return _real("smollm2")


@pytest.fixture(scope="session")
def gemma3() -> Any:
    return _real("gemma3-270m")


@pytest.fixture(scope="session")
def published() -> Any:
    """Finds a file of the benchmark data by its path there, or skips."""

    def find(name: str) -> Path:
        if not (DATA / name).is_file():
            pytest.skip(f"{name} is not in {DATA}: the data are not part of the project")
        return DATA / name

    return find


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.tensor([[5, 17, 200, 33, 8, 91, 4]])
