"""Methods by name: the built-in ones, and those that installed packages add through the entry point group `dola.methods`.

    [project.entry-points."dola.methods"]
    mine = "my_package:MyConfig"          # a MethodConfig, with `method = "mine"`

`config_of` turns settings from a command line, a file or a server request into a configuration.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from dola.errors import ConfigError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.config_confident import ConfidentConfig
from dola.methods.config_delta import DeLTaConfig
from dola.methods.config_sled import SLEDConfig
from dola.methods.layers import parse

if TYPE_CHECKING:
    from dola.methods.method import Method

GROUP = "dola.methods"

BUILT_IN: dict[str, type[MethodConfig]] = {
    "dola": DoLaConfig,
    "confident": ConfidentConfig,
    "delta": DeLTaConfig,
    "sled": SLEDConfig,
}
"""The built-in methods."""


class _Methods(Mapping[str, type[MethodConfig]]):
    """Configuration classes by method name. An entry point is loaded when its name is looked up."""

    def __getitem__(self, name: str) -> type[MethodConfig]:
        if name in BUILT_IN:
            return BUILT_IN[name]
        point = next((point for point in metadata.entry_points(group=GROUP) if point.name == name), None)
        if point is None:
            raise KeyError(name)
        return _loaded(point)

    def __iter__(self) -> Iterator[str]:
        yield from BUILT_IN
        yield from sorted({point.name for point in metadata.entry_points(group=GROUP)} - set(BUILT_IN))

    def __len__(self) -> int:
        return len(list(iter(self)))


METHODS: Mapping[str, type[MethodConfig]] = _Methods()
"""The configuration class of each method, by name."""


def _loaded(point: metadata.EntryPoint) -> type[MethodConfig]:
    """Load the configuration class of an entry point.

    Raises:
        ConfigError: It cannot be imported, or is not a MethodConfig with the entry point's name.
    """
    hint = f"update or uninstall the package that adds it: {getattr(point.dist, 'name', 'unknown')}"
    try:
        found = point.load()
    except Exception as error:
        raise ConfigError(f"The method {point.name!r} ({point.value}) cannot be imported: {error}", hint=hint) from error
    if not (isinstance(found, type) and issubclass(found, MethodConfig)):
        raise ConfigError(f"The method {point.name!r} ({point.value}) is not a dola.methods.MethodConfig.", hint=hint)
    if found.method != point.name:
        raise ConfigError(f"The method {point.name!r} ({point.value}) calls itself {found.method!r}.", hint=hint)
    return found


def config_class(name: object) -> type[MethodConfig]:
    """The configuration class of a method.

    Raises:
        ConfigError: The method does not exist.
    """
    found = METHODS.get(name) if isinstance(name, str) else None
    if found is None:
        raise ConfigError(f"method={name!r} is unknown; allowed are {', '.join(METHODS)}.", hint='method="dola"')
    return found


def settings_of(kind: type[MethodConfig]) -> tuple[str, ...]:
    """The names of a method's settings."""
    return tuple(field.name for field in fields(kind))  # type: ignore[arg-type]  # each is a dataclass


def required_settings(kind: type[MethodConfig]) -> list[str]:
    """The names of a method's settings that have no default."""
    return [
        field.name
        for field in fields(kind)  # type: ignore[arg-type]
        if field.default is MISSING and field.default_factory is MISSING
    ]


def config_of(settings: Mapping[str, Any], *, where: str = "") -> MethodConfig:
    """Build a configuration from settings by name, with "-" or "_" between words.

    "method" selects the method; without it, DoLa. "preset" adds the settings that the method's authors use for a task; the
    other settings override it.

    Args:
        settings: Settings as a user wrote them. Layers may be text.
        where: Where they were read from; error messages start with it.

    Raises:
        ConfigError: An unknown method, a name that is not one of its settings, or a value that is not allowed.
    """
    given = {str(key).replace("-", "_"): value for key, value in settings.items()}
    kind = config_class(given.pop("method", DoLaConfig.method))
    if "preset" in given:
        given = {**kind.preset_settings(given.pop("preset")), **given}
    allowed = settings_of(kind)
    for name in given:
        if name not in allowed:
            raise ConfigError(
                f"{where and where + ': '}{name!r} is not a setting of the method {kind.method!r}; its settings are "
                f"{', '.join(allowed)}.",
                hint=f"choose another method ({', '.join(METHODS)}), or leave {name!r} out",
            )
    if missing := [name for name in required_settings(kind) if name not in given]:
        raise ConfigError(
            f"{where and where + ': '}the method {kind.method!r} needs the setting {missing[0]!r}.",
            hint=f"give {missing[0]}; its settings are {', '.join(allowed)}",
        )
    if "layers" in given:
        given["layers"] = parse(given["layers"])
    return kind(**given)


def with_settings(config: MethodConfig, **changes: Any) -> MethodConfig:
    """A copy of the configuration with some settings changed."""
    changed: MethodConfig = replace(config, **changes)  # type: ignore[type-var]
    return changed


@functools.lru_cache(maxsize=64)
def method_of(config: MethodConfig) -> Method:
    """The method of a configuration. Equal configurations share one."""
    return config.build()
