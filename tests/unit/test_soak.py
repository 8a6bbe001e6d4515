"""A short soak: memory does not grow over generations, and the soak would notice if it did."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nothing_grows(soak):
    said = []
    first, last = soak.soak(80, said.append)
    assert soak.grown(first, last, memory=0.05) == []
    assert len(said) == 12


def test_growth_is_noticed(soak):
    first = soak.State(100.0, 1000, 50, 0, 900, 1)
    assert soak.grown(first, first._replace(hooks=1), memory=0.01) == ["hooks: 0 to 1"]
    assert soak.grown(first, first._replace(resident=102.0, objects=1300), memory=0.01) == [
        "resident memory: 100.0 to 102.0 MB",
        "objects: 1000 to 1300",
    ]
