"""What `import dola` promises."""

import importlib
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import dola


def test_exports():
    assert dola.__all__ == [
        "Anatomy",
        "Attachment",
        "ConfidentConfig",
        "DeLTaConfig",
        "DoLaConfig",
        "DolaError",
        "LayerTrace",
        "Lens",
        "Recipe",
        "SLEDConfig",
        "__version__",
        "attach",
        "fit_lens",
        "generate",
        "install",
        "load",
        "score",
        "trace",
        "tune",
        "uninstall",
    ]
    assert all(hasattr(dola, name) for name in dola.__all__)
    assert len(dola.__all__) <= 20


def test_version_is_the_distributions():
    assert version("dola-decoding") == dola.__version__


def test_the_package_is_typed():
    assert Path(dola.__file__).with_name("py.typed").exists()


def test_the_formulas_need_torch_alone():
    """Other engines import them without transformers."""
    code = "import sys, dola.contrast; print('torch' in sys.modules, 'transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False"]


def test_the_contrast_fits_on_one_screen():
    assert len((Path(dola.__file__).parent / "methods" / "contrast.py").read_text().splitlines()) <= 60


def test_importing_dola_needs_only_the_core_dependencies():
    code = (
        "import sys\n"
        "for name in ('gguf', 'rich', 'typer', 'accelerate', 'matplotlib', 'lm_eval', 'vllm'):\n"
        "    sys.modules[name] = None\n"
        "import dola\n"
        "for name in dola.__all__: getattr(dola, name)\n"
    )
    strict = ["-W", "error", "-W", "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"]  # as in pyproject.toml
    done = subprocess.run([sys.executable, *strict, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


FIRST = [
    "import dola.decoding.attach, dola.decoding.generate",
    "from dola.decoding.attach import Session; from dola.decoding.generate import RECOMMENDED_PENALTY",
    "from dola import generate, attach",
    "import importlib; importlib.import_module('dola.decoding.generate'); importlib.import_module('dola.decoding.attach')",
    "dola.attach; dola.generate",
    "dola.errors.DolaError; dola.contrast.contrast; dola.models.load; from dola import layers",
]


def test_names_are_imported_when_used():
    """`dola.attach` is the function, whatever is imported first."""
    code = f"""
import sys, types
for first in {FIRST}:
    for name in [name for name in sys.modules if name.partition(".")[0] == "dola"]:
        del sys.modules[name]
    import dola
    assert not {{"dola.decoding.attach", "dola.decoding.generate"}} & set(sys.modules)
    assert first != {FIRST[0]!r} or not {{"torch", "transformers"}} & set(sys.modules)
    assert set(dola.__all__) <= set(dir(dola))
    exec(first)
    for name in ("attach", "generate"):
        assert isinstance(getattr(dola, name), types.FunctionType), (first, getattr(dola, name))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_there():
    with pytest.raises(AttributeError, match="module 'dola' has no attribute 'nosuch'"):
        dola.nosuch  # noqa: B018


ROOT = {"__init__", "_version", "errors"}
DOCUMENTED = {
    "anatomy": ("Anatomy", "register_anatomy"),
    "config": ("DoLaConfig",),
    "contrast": ("contrast", "js_divergence", "plausible", "reference_divergence", "select_premature"),
    "layers": ("BUCKETS", "candidate_layers"),
    "models": ("EMBEDDED", "load"),
}
"""Import paths that the documentation has named, and what people import from them."""


def test_the_root_holds_what_everything_needs_and_one_line_for_each_documented_path():
    folder = Path(dola.__file__).parent
    assert {path.stem for path in folder.glob("*.py")} == ROOT | set(DOCUMENTED)
    for name, exported in DOCUMENTED.items():
        module = importlib.import_module(f"dola.{name}")
        lines = (folder / f"{name}.py").read_text().splitlines()[1:]
        assert all(line == "" or (line.startswith("from dola.") and " import *" in line) for line in lines)
        for each in exported:
            assert hasattr(module, each)


@pytest.mark.parametrize(
    "path",
    [
        "dola.bench", "dola.cli:main", "dola.errors", "dola.evidence", "dola.tasks", "dola.plot.figure",
        "dola.plot.html", "dola.integrations.vllm.plugin:register", "dola.native",
    ],
)  # fmt: skip
def test_documented_paths_of_packages(path):
    module, _, name = path.partition(":")
    found = importlib.import_module(module)
    assert not name or callable(getattr(found, name))
