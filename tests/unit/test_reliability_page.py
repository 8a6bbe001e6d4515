"""docs/reliability.md, docs/security.md and SECURITY.md name tests that exist, and count what there is."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
DEFAULT_EXAMPLES = 100  # of hypothesis


@pytest.mark.parametrize("page", ["docs/reliability.md", "docs/security.md", "SECURITY.md"])
def test_every_named_test_exists(page):
    named = re.findall(r"`(test_\w+)::(test_\w+)`", (ROOT / page).read_text())
    assert len(named) > 5
    for module, test in named:
        (path,) = TESTS.rglob(f"{module}.py")
        assert test in {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}, test


def counted():
    """Tests with @given, and the examples that their settings allow, each parameter's counted."""
    properties, examples = 0, 0
    for path in TESTS.rglob("test_*.py"):
        for node in ast.parse(path.read_text()).body:
            decorators = [ast.unparse(each) for each in getattr(node, "decorator_list", [])]
            if any(each.startswith("given(") for each in decorators):
                limit = re.search(r"max_examples=(\d+)", " ".join(decorators))
                properties, examples = properties + 1, examples + (int(limit[1]) if limit else DEFAULT_EXAMPLES)
    return properties, examples


def mistakes():
    """Rows of the table of mistakes."""
    tree = ast.parse((TESTS / "cli" / "test_mistakes.py").read_text())
    tables = [node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MISTAKES"]
    return len(tables[0].elts)


def test_the_counts_are_right():
    properties, examples = counted()
    said = " ".join((ROOT / "docs" / "reliability.md").read_text().split())
    assert f"{properties} properties with hypothesis, {examples:,} examples of them in a run; {mistakes()} mistakes" in said
