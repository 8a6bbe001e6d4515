"""Finds calls in a source that run what they read, or that let others in: `unit/test_security.py` holds all sources to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator

RUNNERS = {
    "": ("eval", "exec", "__import__"),
    "builtins": ("eval", "exec", "compile"),
    "joblib": ("load",),
    "os": ("system", "popen"),
    "pandas": ("read_pickle",),
    "pty": ("spawn",),
    "runpy": ("run_path", "run_module"),
    "shutil": ("unpack_archive",),
    "ssl": ("_create_unverified_context",),
    "tempfile": ("mktemp",),
    "torch.hub": ("load",),
    "torch.jit": ("load",),
    "yaml": ("load", "load_all", "full_load", "unsafe_load"),
}
"""Names that have no place in a source, called or not, by their module."""
PICKLES = frozenset({"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "jsonpickle"})
HARMLESS = frozenset({"pickle.UnpicklingError", "pickle.PicklingError", "pickle.PickleError"})
"""What may be used of these modules: errors."""
EVERYWHERE = frozenset({"0.0.0.0", "::"})
"""Addresses that listen to everybody."""


def risks(source: str) -> list[str]:
    """What is risky in a source, in the order of `ast.walk`; an empty list if nothing is."""
    tree = ast.parse(source)
    names = dict(_names(tree))
    loads = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    return [found for node in ast.walk(tree) for found in _of(node, names, loads)]


def imports(source: str) -> set[str]:
    """The packages that a source imports anywhere."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            found.add((node.module or "").partition(".")[0])
    return found


def _names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """What each imported name stands for: `np` for numpy, `read` for torch.load."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for each in node.names:
                yield (each.asname, each.name) if each.asname else (each.name.partition(".")[0],) * 2
        elif isinstance(node, ast.ImportFrom):
            yield from ((each.asname or each.name, f"{node.module}.{each.name}") for each in node.names)


def _of(node: ast.AST, names: dict[str, str], called: set[int]) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom):
        yield from (f"imports {name}" for each in node.names if _runs(name := f"{node.module}.{each.name}"))
    elif isinstance(node, (ast.Name, ast.Attribute)):
        name = _whole(node, names)
        if _runs(name):
            yield f"names {name}"
        elif name == "torch.load" and id(node) not in called:
            yield "passes torch.load on"
    elif isinstance(node, ast.Constant) and node.value in EVERYWHERE:
        yield f"listens on {node.value!r}"
    elif isinstance(node, ast.Call):
        yield from _of_call(_whole(node.func, names), {each.arg: ast.unparse(each.value) for each in node.keywords})
        if isinstance(node.func, ast.Attribute) and node.func.attr == "extractall":
            yield "calls extractall, which follows the names in an archive"


def _of_call(name: str, keywords: dict[str | None, str]) -> Iterator[str]:
    if name == "compile":  # called: as a name alone it is often a parameter
        yield "calls compile"
    if name == "torch.load" and keywords.get("weights_only") != "True":
        yield "calls torch.load without weights_only=True"
    if name.startswith("numpy.") and keywords.get("allow_pickle", "False") != "False":
        yield f"calls {name} with allow_pickle"
    for risky, value in (("shell", "True"), ("trust_remote_code", "True"), ("verify", "False")):
        if keywords.get(risky) == value:
            yield f"calls {name} with {risky}={value}"


def _runs(name: str) -> bool:
    module, _, last = name.rpartition(".")
    return last in RUNNERS.get(module, ()) or (module.partition(".")[0] in PICKLES and name not in HARMLESS)


def _whole(node: ast.AST, names: dict[str, str]) -> str:
    """The name of an expression with its import in front, such as numpy.load; "" for what is not a name."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute) and (inner := _whole(node.value, names)):
        return f"{inner}.{node.attr}"
    return ""
