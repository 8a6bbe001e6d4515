"""What `import dola` promises."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

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
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
