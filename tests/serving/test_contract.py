"""The installed vLLM has what dola uses; so does the one whose source DOLA_VLLM_SOURCE names, as the scheduled job does."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from dola.integrations.vllm import contract


def test_the_installed_vllm_has_what_dola_uses():
    assert contract.failures() == []


@pytest.mark.skipif("DOLA_VLLM_SOURCE" not in os.environ, reason="DOLA_VLLM_SOURCE names no folder with another vLLM")
def test_another_vllm_has_what_dola_uses():
    assert contract.failures(Path(os.environ["DOLA_VLLM_SOURCE"])) == []


def test_all_imports_from_vllm_are_in_the_contract():
    """A name that the plugin imports and the contract lacks could vanish unnoticed."""
    named = {part for symbol in contract.CONTRACT for part in symbol.name.split(".")}
    named |= {symbol.module.rpartition(".")[2] for symbol in contract.CONTRACT}
    imported = set()
    for path in Path(contract.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and re.match(r"vllm(\.|$)", node.module or ""):
                imported |= {alias.name for alias in node.names}
    assert imported - named == {"ModelRegistry"}  # an instance of _ModelRegistry
