"""Methods of installed packages, by the entry point group `dola.methods`. One that fails stops only those who ask for it.

[project.entry-points."dola.methods"]
mine = "my_package:MyConfig"          # a MethodConfig, with `method = "mine"`
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection
from dataclasses import is_dataclass
from importlib import metadata

from dola.errors import ConfigError
from dola.methods.config import MethodConfig

logger = logging.getLogger("dola")

GROUP = "dola.methods"


def points(built_in: Collection[str]) -> dict[str, metadata.EntryPoint]:
    """The entry points by name, without those whose name is built in. Of several with one name, the first on Python's path."""
    found: dict[str, metadata.EntryPoint] = {}
    for point in metadata.entry_points(group=GROUP):
        if point.name not in built_in:
            found.setdefault(point.name, point)
    return dict(sorted(found.items()))


def clashes(built_in: Collection[str]) -> list[str]:
    """A sentence for each entry point that is not used, because something else has its name."""
    used, said = points(built_in), []
    for point in metadata.entry_points(group=GROUP):
        winner = used.get(point.name)
        if winner is None or winner.value != point.value:
            other = "the built-in method" if winner is None else f"that of {_package(winner)}"
            said.append(f"{_package(point)} adds a method {point.name!r}, a name that is taken: {other} is used.")
    return said


@functools.cache
def warn_of_clashes(built_in: tuple[str, ...]) -> None:
    """Log the clashes, once in a process."""
    for sentence in clashes(built_in):
        logger.warning(sentence)


def load(point: metadata.EntryPoint) -> type[MethodConfig]:
    """The configuration class of an entry point.

    Raises:
        ConfigError: It cannot be imported, or is not a MethodConfig with the entry point's name.
    """
    what, hint = (
        f"The method {point.name!r} ({point.value})",
        f"update or uninstall the package that adds it: {_package(point)}",
    )
    try:
        found = point.load()
    except (Exception, SystemExit) as error:  # whatever a package's code raises
        raise ConfigError(f"{what} cannot be imported: {type(error).__name__}: {error}", hint=hint) from error
    if not (isinstance(found, type) and issubclass(found, MethodConfig)):
        raise ConfigError(f"{what} is not a dola.methods.MethodConfig.", hint=hint)
    if not is_dataclass(found):
        raise ConfigError(
            f"{what} is not a dataclass.", hint=f"write @dataclass(frozen=True) above {found.__name__}; or {hint}"
        )
    if (name := getattr(found, "method", None)) != point.name:
        raise ConfigError(f"{what} calls itself {name!r}.", hint=hint)
    try:
        found.settings()
    except Exception as error:
        raise ConfigError(f"{what} has settings that cannot be read: {error}", hint=hint) from error
    return found


def _package(point: metadata.EntryPoint) -> str:
    return str(getattr(point.dist, "name", "an unknown package"))
