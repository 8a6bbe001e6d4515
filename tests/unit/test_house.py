"""The floors of the house: imports go down, never up, and never in a circle. docs/architecture.md draws them."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import dola

FOLDER = Path(dola.__file__).parent
FLOORS = (
    {"errors", "_version"},
    {"files", "installed"},
    {"native"},
    {"methods", "model"},
    {"text"},
    {"lens"},
    {"loading"},
    {"decoding"},
    {"scoring", "serving", "mlx"},
    {"plot"},
    {"tracing", "tasks"},
    {"evidence", "doctor"},
    {"bench", "integrations"},
    {"ui"},
    {"cli"},
)
"""Packages from the bottom up. What has no floor here is a line in the root for a documented import path."""

FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names}
MODULES = {
    ".".join(("dola", *path.relative_to(FOLDER).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in FOLDER.rglob("*.py")
}


def imported(path: Path) -> Iterator[str]:
    """The modules of dola that a file imports when it runs, in functions too, but not for types alone."""
    nodes: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes += ast.iter_child_nodes(node)
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "dola":
            for name in node.names:
                yield f"{node.module}.{name.name}" if f"{node.module}.{name.name}" in MODULES else str(node.module)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.partition(".")[0] == "dola")


IMPORTS = {module: set(imported(path)) for module, path in MODULES.items()}


def test_no_circle_of_modules():
    graph = {module: found - {module, "dola"} for module, found in IMPORTS.items()}
    try:
        assert set(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_no_arrow_goes_up():
    def floor(module: str) -> int | None:
        return FLOOR.get(module.split(".")[1]) if "." in module else None

    up = [
        f"{module} -> {below}"
        for module, found in IMPORTS.items()
        for below in found
        if (here := floor(module)) is not None and (there := floor(below)) is not None and there > here
    ]
    assert not up
    lines = {name for name in MODULES if name.count(".") == 1 and floor(name) is None}
    assert lines == {f"dola.{name}" for name in ("anatomy", "config", "contrast", "layers", "models")}


def test_few_files_know_the_settings_of_dola():
    """Interfaces are made from the fields. Files that name a model's own final norm are not counted."""
    parts = {"model", "lens", "doctor/checkup.py", "cli/doctor.py", "cli/doctor_page.py", "decoding/attach.py"}
    parts.add("mlx")  # the second backend: formulas and the readout, once more on its arrays

    def speaks_of_a_part(name: str) -> bool:
        own = name.startswith("methods/config_") or name in ("methods/delta.py", "methods/sled.py")  # settings of their own
        return own or name in parts or name.split("/")[0] in parts or name.endswith("readout.py")

    known = re.compile(r"relative_top|final_norm|raw_head")
    naming = [path for path in FOLDER.rglob("*.py") if known.search(path.read_text(encoding="utf-8"))]
    found = [name for path in naming if not speaks_of_a_part(name := path.relative_to(FOLDER).as_posix())]
    assert len(found) <= 12, sorted(found)
    assert not [name for name in found if name.split("/")[0] in ("cli", "ui", "tracing", "bench", "plot")]


def test_settings_and_errors_need_no_torch():
    """Another array library, or a program that only reads settings, can use them."""
    code = (
        "import sys, dola.errors, dola.methods.config, dola.methods.layers\n"
        "dola.methods.config.DoLaConfig('high', divergence='reference')\n"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
