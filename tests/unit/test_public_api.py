"""What `import dola` promises."""

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
        "DoLaConfig",
        "DolaError",
        "__version__",
        "attach",
        "generate",
        "install",
        "load",
        "uninstall",
    ]
    assert all(hasattr(dola, name) for name in dola.__all__)
    assert len(dola.__all__) <= 15


def test_version_is_the_distributions():
    assert version("dola-decoding") == dola.__version__


def test_the_package_is_typed():
    assert Path(dola.__file__).with_name("py.typed").exists()


def test_contrast_imports_nothing_of_ours():
    """The formulas stand alone: other engines import them without transformers."""
    source = Path(dola.__file__).with_name("contrast.py").read_text()
    assert "dola" not in "".join(line for line in source.splitlines() if line.startswith(("import", "from")))


def test_importing_dola_needs_only_the_core_dependencies():
    code = (
        "import sys\n"
        "for name in ('gguf', 'rich', 'typer', 'accelerate', 'matplotlib', 'lm_eval', 'vllm'):\n"
        "    sys.modules[name] = None\n"
        "import dola\n"
        "for name in dola.__all__: getattr(dola, name)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_import_dola_waits_for_nothing():
    code = "import sys, dola; assert not {'torch', 'transformers'} & set(sys.modules); print(dir(dola))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(repr(name) in done.stdout for name in dola.__all__)


@pytest.mark.parametrize(
    "first",
    [
        "import dola.attach, dola.generate",
        "from dola.attach import Session; from dola.generate import RECOMMENDED_PENALTY",
        "from dola import generate, attach",
        "import importlib; importlib.import_module('dola.generate'); importlib.import_module('dola.attach')",
        "dola.attach; dola.generate",
        "import sys; dola.attach; del sys.modules['dola.attach']; import dola.attach",
    ],
)
def test_functions_are_not_hidden_by_the_modules_of_their_names(first):
    code = f"import dola\n{first}\nimport dola, types\nfor name in ('attach', 'generate'):\n"
    code += "    assert isinstance(getattr(dola, name), types.FunctionType), getattr(dola, name)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_submodules_are_at_hand():
    code = "import dola; dola.errors.DolaError; dola.contrast.contrast; dola.models.load; from dola import layers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_not_there():
    with pytest.raises(AttributeError, match="module 'dola' has no attribute 'nosuch'"):
        dola.nosuch  # noqa: B018
