"""Checks early that torch and transformers are installed, work, and fit dola and each other.

transformers disables an older torch ("Disabling PyTorch") and then lacks every model class. pip cannot see that:
transformers itself does not require torch, only its extra `torch` does.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata

from dola.errors import VersionsError
from dola.installed.hints import pip_install

NEEDS = {"torch": ">=2.6,<3", "transformers": ">=5.0,<6"}
"""The versions that dola works with, the same as in pyproject.toml."""

NEWEST_TESTED = {"torch": "2.14", "transformers": "5.24"}
"""The newest series for which `make test-newest` passed. docs/compatibility.md lists the pairs."""


@dataclass(frozen=True)
class Misfit:
    """What does not fit, and the command that fixes it."""

    message: str
    hint: str


@functools.cache
def check() -> None:
    """Import torch and transformers, and raise an error if they do not fit.

    Raises:
        VersionsError: One of them is missing, cannot be imported, or has a version that dola does not work with; or
            transformers does not use the installed torch.
    """
    if (found := misfit()) is not None:
        raise VersionsError(found.message, hint=found.hint)


def misfit() -> Misfit | None:
    """What does not fit, or None. Imports torch and transformers."""
    for package, needed in NEEDS.items():
        if (found := _fault(package, needed)) is not None:
            return found
    from transformers.utils import is_torch_available

    with _silence():
        available = is_torch_available()
    return _no_models() if available else _switched_off()


def newer_than_tested() -> list[str]:
    """A sentence for each package whose series is newer than those that dola was tested with."""
    from packaging.version import InvalidVersion, Version

    found = []
    for package, newest in NEWEST_TESTED.items():
        try:
            installed = Version(str(_version(package)))
        except InvalidVersion:  # or not installed
            continue
        if installed.release[:2] > Version(newest).release:
            found.append(
                f"{package} {installed} is newer than {newest}, the newest tested with dola. If something is wrong: "
                + pip_install(f"{package}=={newest}.*")
            )
    return found


def _fault(package: str, needed: str) -> Misfit | None:
    """What is wrong with one package."""
    try:
        with _silence():
            module = import_module(package)
    except Exception as error:
        return _cannot_import(package, error)
    version = str(getattr(module, "__version__", ""))
    if _fits(version, needed):
        return None
    return Misfit(f"{package} {version} is installed; dola needs {package}{needed}.", pip_install(package + needed))


def _no_models() -> Misfit | None:
    """Why transformers' models cannot be imported, or None. `import transformers` alone imports none of them.

    An optional package that transformers uses may be too old, such as accelerate 1.1 for transformers 5.0.
    """
    try:
        import_module("transformers.modeling_utils")
    except Exception as error:
        return _cannot_import("transformers", error)
    return None


def _cannot_import(package: str, error: Exception) -> Misfit:
    """What a failed import reports and how to fix it: install another package that it names, or this one."""
    needed = package + NEEDS[package]
    name = (getattr(error, "name", None) or package).partition(".")[0]
    if isinstance(error, ModuleNotFoundError) and name == package:
        return Misfit(f"{package} is not installed; dola needs {needed}.", pip_install(needed))
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    if isinstance(error, ValueError) and (variables := _variables_in(line)):
        return Misfit(
            f"A library cannot be imported: {line}. It reads such a value from {' or '.join(variables)}.",
            f"unset {' '.join(variables)}, or correct the value",
        )
    said = f"{package} {_version(package) or ''}".rstrip() + f" is installed but cannot be imported: {line}"
    if name not in NEEDS:
        return Misfit(said, pip_install("--upgrade", metadata.packages_distributions().get(name, [name])[0]))
    return Misfit(said, pip_install("--force-reinstall", needed) if package == "torch" else pip_install(needed))


def _variables_in(line: str) -> list[str]:
    """The environment variables whose values appear in a message."""
    return sorted(name for name, value in os.environ.items() if value and repr(value) in line)


def _fits(version: str, needed: str) -> bool:
    """Whether a version is in a range; a development version counts as the release that it leads to."""
    from packaging.specifiers import SpecifierSet
    from packaging.version import InvalidVersion, Version

    try:
        return SpecifierSet(needed).contains(Version(version).base_version, prereleases=True)
    except InvalidVersion:  # a custom build: the next check is whether transformers uses it
        return True


def _switched_off() -> Misfit:
    """transformers has decided that it cannot use the installed torch."""
    needed = _torch_for_transformers()
    wants = f"; it needs torch{needed}" if needed else ""
    return Misfit(
        f"transformers {_version('transformers')} does not use the installed torch {_version('torch')}{wants}.",
        pip_install(f"torch{needed or NEEDS['torch']}"),
    )


def _torch_for_transformers() -> str:
    """The version specifier of torch in the extra `torch` of the installed transformers."""
    from packaging.requirements import Requirement

    try:
        declared = [Requirement(line) for line in metadata.requires("transformers") or []]
    except metadata.PackageNotFoundError:
        return ""
    found = [each for each in declared if each.name == "torch" and each.marker and each.marker.evaluate({"extra": "torch"})]
    return str(found[0].specifier) if found else ""


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress log lines inside: transformers logs that it does not use torch, which the error here explains better."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
