"""versions: torch and transformers that do not fit are named before anything fails in their depths."""

import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import installs
import pytest
import transformers
from command import dola_process
from packaging.requirements import Requirement
from packaging.version import Version

import dola
from dola.errors import DolaError, VersionsError
from dola.installed import versions
from dola.installed.versions import NEEDS, NEWEST_TESTED, check, misfit, newer_than_tested

ROOT = Path(__file__).parents[2]
TORCH = metadata.version("torch")
PROJECT = installs.project()


@pytest.fixture(autouse=True)
def _asked_again():
    check.cache_clear()
    yield
    check.cache_clear()


@pytest.fixture
def off(monkeypatch):
    """transformers that has switched torch off."""
    monkeypatch.setattr("transformers.utils.is_torch_available", lambda: False)


def pins(lines):
    return {Requirement(line).name: Requirement(line) for line in lines}


def constrained(file):
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    return dict(line.split("==") for line in lines if line)


class TestPins:
    def test_those_of_pyproject_are_those_that_are_checked(self):
        declared = {name: requirement.specifier for name, requirement in pins(PROJECT["dependencies"]).items()}
        assert declared == {name: Requirement(name + needed).specifier for name, needed in NEEDS.items()}

    def test_the_lowest_constraints_are_the_lower_bounds(self):
        """And click, which typer brings, and pyparsing, which matplotlib does."""
        extras = PROJECT["optional-dependencies"]
        declared = pins([*PROJECT["dependencies"], *extras["cli"], *(line for line in extras["plot"] if "dola" not in line)])
        bounds = {}
        for name, requirement in declared.items():
            bounds[name] = next(each.version for each in requirement.specifier if each.operator == ">=")
        lowest = constrained("constraints-lowest.txt")
        del lowest["click"], lowest["pyparsing"]
        assert {name: Version(version) for name, version in lowest.items()} == {n: Version(v) for n, v in bounds.items()}

    def test_what_make_installs_is_within_them_and_was_tested(self):
        for name, version in constrained("constraints.txt").items():
            assert Requirement(name + NEEDS[name]).specifier.contains(version)
            assert Version(version).release[:2] <= Version(NEWEST_TESTED[name]).release

    def test_the_lowest_torch_is_one_that_every_allowed_transformers_takes(self):
        """From 5.20 on transformers switches a torch below 2.6 off; the installed one says what it needs itself."""
        lowest = next(each.version for each in Requirement("torch" + NEEDS["torch"]).specifier if each.operator == ">=")
        assert Requirement("torch" + versions._torch_for_transformers()).specifier.contains(lowest)


def test_what_is_installed_here_fits():
    assert misfit() is None
    check()


@pytest.mark.parametrize(
    ("package", "version", "fits"),
    [
        ("torch", "2.5.1", False),
        ("torch", "2.5.1+cu121", False),
        ("torch", "2.6.0", True),
        ("torch", "2.6.0+cpu", True),
        ("torch", "2.7.0a0+git1234567", True),
        ("torch", "2.6.0.dev20250101", True),  # transformers is asked next
        ("torch", "unknown", True),
        ("torch", "3.0", False),
        ("torch", "1.13.1", False),
        ("transformers", "4.57.6", False),
        ("transformers", "5.0.0rc1", True),
        ("transformers", "5.24.0", True),
        ("transformers", "5.99.0.dev0", True),
        ("transformers", "6.0.0", False),
    ],
)
def test_versions(monkeypatch, package, version, fits):
    monkeypatch.setattr(f"{package}.__version__", version)
    found = misfit()
    assert (found is None) == fits
    if found is not None:
        assert found.message == f"{package} {version} is installed; dola needs {package}{NEEDS[package]}."
        assert found.hint.endswith(f"pip install '{package}{NEEDS[package]}'")


def test_torch_that_transformers_switched_off(monkeypatch, off):
    needed = ['torch>=9.1; extra == "torch"', "numpy", 'torch>=1; extra == "other"']
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    found = misfit()
    wanted = f"transformers {transformers.__version__} does not use the installed torch {TORCH}; it needs torch>=9.1."
    assert found.message == wanted
    assert found.hint.endswith("pip install 'torch>=9.1'")


def test_torch_that_transformers_switched_off_for_another_reason(monkeypatch, off):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", missing)
    assert misfit().hint.endswith(f"pip install 'torch{NEEDS['torch']}'")
    monkeypatch.setattr(metadata, "requires", lambda name: None)
    assert misfit().message.endswith(f"does not use the installed torch {TORCH}.")


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_a_package_that_is_missing(monkeypatch, package):
    def fail(name):
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return sys.modules[name]

    monkeypatch.setattr(versions, "import_module", fail)
    assert misfit().message == f"{package} is not installed; dola needs {package}{NEEDS[package]}."


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("libcudart.so.12: cannot open shared object file\nmore"), "libcudart.so.12: cannot open shared object file"),
        (ImportError("tokenizers>=0.22 is required, but found tokenizers==0.19"), "tokenizers>=0.22 is required"),
        (ModuleNotFoundError("No module named 'numpy'", name="numpy"), "No module named 'numpy'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_package_that_cannot_be_imported(monkeypatch, error, line):
    def fail(name):
        raise error

    monkeypatch.setattr(versions, "import_module", fail)
    found = misfit()
    assert found.message.startswith(f"torch {TORCH} is installed but cannot be imported: {line}")
    mended = "--upgrade numpy" if "numpy" in line else f"--force-reinstall 'torch{NEEDS['torch']}'"
    assert found.hint.endswith(f"pip install {mended}")


@pytest.mark.parametrize(
    ("error", "mended"),
    [
        (
            ImportError("cannot import name 'x' from 'accelerate.utils.modeling'", name="accelerate.utils.modeling"),
            "--upgrade accelerate",
        ),
        (ModuleNotFoundError("No module named 'PIL'", name="PIL"), "--upgrade pillow"),
        (ImportError("tokenizers>=0.22 is required, but found tokenizers==0.19"), f"'transformers{NEEDS['transformers']}'"),
    ],
)
def test_models_that_cannot_be_imported(monkeypatch, error, mended):
    """`import transformers` works, but importing any model class fails."""

    def fail(name):
        if name == "transformers.modeling_utils":
            raise error
        return sys.modules[name]

    monkeypatch.setattr(versions, "import_module", fail)
    monkeypatch.setattr(metadata, "packages_distributions", lambda: {"PIL": ["pillow"]})
    found = misfit()
    assert found.message == f"transformers {transformers.__version__} is installed but cannot be imported: {error}"
    assert found.hint.endswith(f"pip install {mended}")


def test_a_variable_that_a_library_cannot_read(monkeypatch):
    """The hint must not suggest reinstalling the package: the package is not broken."""

    def fail(name):
        return int("soon")

    monkeypatch.setattr(versions, "import_module", fail)
    monkeypatch.setenv("SOME_TIMEOUT", "soon")
    assert misfit().hint == "unset SOME_TIMEOUT, or correct the value"
    assert "'soon'. It reads such a value from SOME_TIMEOUT." in misfit().message
    monkeypatch.delenv("SOME_TIMEOUT")
    assert "pip install" in misfit().hint


def test_a_package_without_metadata(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    monkeypatch.setattr(versions, "import_module", lambda name: 1 / 0)
    assert misfit().message == "torch is installed but cannot be imported: division by zero"
    assert newer_than_tested() == []


def test_the_error_is_an_import_error_of_ours(off):
    with pytest.raises(VersionsError, match=r"does not use the installed torch .*\nHint: .*pip install") as caught:
        check()
    assert isinstance(caught.value, ImportError)
    assert isinstance(caught.value, DolaError)


def test_names_of_the_package_say_it(monkeypatch, off):
    for name in ("attach", "generate", "load", "DoLaConfig", "models"):
        monkeypatch.delitem(vars(dola), name, raising=False)
        with pytest.raises(VersionsError, match="does not use the installed torch"):
            getattr(dola, name)
    monkeypatch.delitem(vars(dola), "DolaError", raising=False)
    assert dola.DolaError is DolaError


def test_nothing_is_logged(monkeypatch, off, caplog):
    import logging

    logger = logging.getLogger("transformers")
    monkeypatch.setattr(logger, "propagate", True)  # transformers turns it off, and the command lets errors alone through
    caplog.set_level(logging.WARNING, "transformers")
    module = ModuleType("torch")
    module.__version__ = "2.5.1"
    monkeypatch.setattr(versions, "import_module", lambda name: logger.warning("off") or module)
    assert misfit().message.startswith("torch 2.5.1")
    assert not caplog.records
    logging.getLogger("transformers.x").warning("on again")
    assert caplog.records


def test_newer_than_tested(monkeypatch):
    installed = {"torch": "2.99.0+cpu", "transformers": f"{NEWEST_TESTED['transformers']}.9"}
    monkeypatch.setattr(metadata, "version", installed.get)
    [sentence] = newer_than_tested()
    assert sentence.startswith(f"torch 2.99.0+cpu is newer than {NEWEST_TESTED['torch']}, the newest tested with dola")
    assert sentence.endswith(f"pip install 'torch=={NEWEST_TESTED['torch']}.*'")


@pytest.mark.parametrize("arguments", [["generate", "Hi"], ["trace", "Hi"], ["compare", "Hi", "--layers", "low"]])
def test_a_verb_ends_with_a_line_and_a_hint(arguments, monkeypatch, capsys):
    from dola.cli import main

    monkeypatch.setattr("transformers.__version__", "4.57.6")
    monkeypatch.setattr(sys, "argv", ["dola", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    said = capsys.readouterr()
    assert (stop.value.code, said.out) == (2, "")
    message, hint = said.err.splitlines()
    assert message == "dola: transformers 4.57.6 is installed; dola needs transformers>=5.0,<6."
    assert hint.startswith("Hint: ")
    assert hint.endswith("pip install 'transformers>=5.0,<6'")


def test_without_torch_the_help_and_the_doctor_still_work(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError('No module named torch', name='torch')")
    path = {"PYTHONPATH": f"{tmp_path}:{ROOT / 'src'}"}
    assert dola_process("--help", env=path).returncode == 0
    done = dola_process("generate", "Hi", env=path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("dola: torch is not installed; dola needs torch>=2.6,<3.\nHint: ")
    done = dola_process("doctor", "smollm2", env={**path, "COLUMNS": "300"})
    assert done.returncode == 1, done.stderr
    assert "failed: torch is not installed" in done.stdout
    assert "Traceback" not in done.stderr
