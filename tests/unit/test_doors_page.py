"""docs/doors.md is up to date, and every test that it names exists, for each method where it says so."""

import ast
from pathlib import Path

import costs_page
import pytest
from doors_page import METHOD_DOORS, PROMISED, REFUSED, REFUSED_OF_METHODS, page

TESTS = Path(__file__).parents[1]


def test_the_page_is_fresh():
    assert (TESTS.parent / "docs" / "doors.md").read_text() == page(), "run: make docs"


def test_the_table_of_costs_is_fresh():
    assert costs_page.PAGE.read_text() == costs_page.page(), "run: make docs"


def defined(name: str) -> tuple[ast.FunctionDef, str]:
    """The test of a name (file::test or file::Class::test), and the text of its file."""
    module, *classes, test = name.split("::")
    (path,) = TESTS.rglob(f"{module}.py")
    text = path.read_text()
    inside = ast.parse(text).body
    for each in classes:
        inside = next(node for node in inside if isinstance(node, ast.ClassDef) and node.name == each).body
    return next(node for node in inside if isinstance(node, ast.FunctionDef) and node.name == test), text


@pytest.mark.parametrize("name", sorted({row[-1] for row in (*PROMISED, *REFUSED, *METHOD_DOORS, *REFUSED_OF_METHODS)}))
def test_every_named_test_exists(name):
    assert defined(name)


@pytest.mark.parametrize(("door", "name"), METHOD_DOORS)
def test_a_door_of_methods_is_tested_with_each(door, name):
    """By the mark, or, where starting an engine for each method would take long, by a list that holds them all."""
    test, text = defined(name)
    marks = [ast.unparse(mark) for mark in test.decorator_list]
    assert "each_method" in marks or "*METHODS.values()" in text, door
