"""The names of vLLM that dola uses, held against source: what is missing or has other parameters is found, and named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dola.integrations.vllm import contract
from dola.integrations.vllm.contract import Symbol, failures

SOURCE = """
VALUE: int = 1
if True:
    OTHER = 2

def call(one, two=None, *, three, **more): ...

class Kind:
    field: str
    CODE = 1

    def __init__(self):
        self.made = 3

    async def method(self, request, raw=None):
        return request.eval()
"""


def _failures(folder: Path, monkeypatch: Any, *symbols: Symbol) -> list[str]:
    (folder / "part").mkdir(exist_ok=True)
    (folder / "part" / "__init__.py").write_text(SOURCE)
    (folder / "other.py").write_text("def call(first): ...")
    monkeypatch.setattr(contract, "CONTRACT", symbols)
    return failures(folder)


@pytest.mark.parametrize(
    "symbol",
    [
        Symbol("part", "VALUE"),
        Symbol("part", "OTHER"),
        Symbol("part", "call", ("one", "three")),
        Symbol("part", "Kind.field"),
        Symbol("part", "Kind.CODE", needs_text="= 1"),
        Symbol("part", "Kind.made"),
        Symbol("part", "Kind.method", ("self", "request")),
        Symbol("part", "Kind.method", needs_text="request.eval()"),
        Symbol("other", "call", ("first",)),
    ],
)
def test_what_is_there_holds(symbol: Symbol, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert _failures(tmp_path, monkeypatch, symbol) == []


@pytest.mark.parametrize(
    ("symbol", "words"),
    [
        (Symbol("moved", "call"), "vllm.moved does not exist"),
        (Symbol("part", "gone"), "vllm.part.gone does not exist"),
        (Symbol("part", "Kind.gone"), "vllm.part.Kind.gone does not exist"),
        (Symbol("part", "VALUE", ()), "vllm.part.VALUE is not a function"),
        (Symbol("part", "call", ("one",)), "vllm.part.call also requires three"),
        (Symbol("part", "call", ("two", "one", "three")), "vllm.part.call takes (one, two, three), not (two, one, three)"),
        (Symbol("part", "Kind.CODE", needs_text="= 2"), "vllm.part.Kind.CODE does not contain '= 2'"),
    ],
)
def test_what_differs_is_named(symbol: Symbol, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert _failures(tmp_path, monkeypatch, symbol) == [words]


def test_without_vllm(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(contract, "find_spec", lambda name: None)
    assert failures() == ["vLLM is not installed"]
