"""docs/doors.md is what tests/doors_page.py makes, and every test it names exists."""

import ast
from pathlib import Path

from doors_page import PROMISED, REFUSED, page

TESTS = Path(__file__).parents[1]


def test_the_page_is_fresh():
    assert (TESTS.parent / "docs" / "doors.md").read_text() == page(), "run: make docs"


def test_every_named_test_exists():
    for _, _, name in PROMISED + REFUSED:
        module, test = name.split("::")
        (path,) = TESTS.rglob(f"{module}.py")
        defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert test in defined, name
