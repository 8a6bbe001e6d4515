"""Methods by name: the built-in ones, and those that installed packages add through the entry point group `dola.methods`.

    [project.entry-points."dola.methods"]
    mine = "my_package:MyConfig"          # a MethodConfig, with `method = "mine"`

`config_of` turns settings from a command line, a file or a server request into a configuration.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from dola.errors import ConfigError
from dola.files.json_text import loads
from dola.files.settings_file import read_object
from dola.methods import plugins
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.config_confident import ConfidentConfig
from dola.methods.config_delta import DeLTaConfig
from dola.methods.config_sled import SLEDConfig
from dola.methods.layers import parse

if TYPE_CHECKING:
    from dola.methods.method import Method

BUILT_IN: dict[str, type[MethodConfig]] = {
    "dola": DoLaConfig,
    "confident": ConfidentConfig,
    "delta": DeLTaConfig,
    "sled": SLEDConfig,
}
"""The built-in methods."""


class _Methods(Mapping[str, type[MethodConfig]]):
    """Configuration classes by method name: the built-in ones, and those of packages that can be used.

    Looking up a name loads its entry point; iterating loads all, and leaves out those that fail. Looking up one that fails
    raises ConfigError, which says why.
    """

    def __getitem__(self, name: str) -> type[MethodConfig]:
        if name != DoLaConfig.method:  # which most callers look up, and should cost nothing
            plugins.warn_of_clashes(tuple(BUILT_IN))
        if name in BUILT_IN:
            return BUILT_IN[name]
        point = plugins.points(BUILT_IN).get(name)
        if point is None:
            raise KeyError(name)
        return plugins.load(point)

    def __iter__(self) -> Iterator[str]:
        yield from BUILT_IN
        broken = broken_methods()
        yield from (name for name in plugins.points(BUILT_IN) if name not in broken)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and usable(name) is not None


METHODS: Mapping[str, type[MethodConfig]] = _Methods()
"""The configuration class of each method, by name."""


def broken_methods() -> dict[str, ConfigError]:
    """The methods of packages that cannot be used, each with the reason."""
    plugins.warn_of_clashes(tuple(BUILT_IN))
    found = {}
    for name, point in plugins.points(BUILT_IN).items():
        try:
            plugins.load(point)
        except ConfigError as error:
            found[name] = error
    return found


def usable(name: str) -> type[MethodConfig] | None:
    """The configuration class of a method; None if it is not installed here, or cannot be used."""
    try:
        return METHODS.get(name)
    except ConfigError:
        return None


def label_of(name: str) -> str:
    """A method's name for people, whether it is installed here or not."""
    kind = usable(name)
    return name if kind is None else kind.label()


def config_class(name: object) -> type[MethodConfig]:
    """The configuration class of a method.

    Raises:
        ConfigError: The method does not exist, or its package cannot be used.
    """
    found = METHODS.get(name) if isinstance(name, str) else None
    if found is None:
        (close, *_) = [*get_close_matches(str(name), METHODS), "dola"]
        raise ConfigError(f"method={name!r} is unknown; allowed are {', '.join(METHODS)}.", hint=f"did you mean {close}?")
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


def read_config(path: str | os.PathLike[str]) -> MethodConfig | None:
    """Read the settings of any method from a JSON file that `dola tune --output` writes; None if the file says off.

    "set" holds further settings of the method, each as "name=value" as for the command's `--set`. A `repetition-penalty` is
    ignored: it is an argument of generation, not a setting of a method.

    Raises:
        ConfigError: The file cannot be read, a key is not a setting of the method, or a value is not allowed.
    """
    name = f"The file {str(path)!r}"
    given = {key.replace("-", "_"): value for key, value in read_object(path, name=name, example='{"method": "dola"}').items()}
    given.pop("repetition_penalty", None)
    if given.get("layers") == "off":
        return None
    more = given.pop("set", [])
    for each in more if isinstance(more, list) else [more]:
        key, equals, text = str(each).partition("=")
        if not equals:
            raise ConfigError(f"{name}: {each!r} in 'set' is not a name and a value.", hint='"set": ["rate=2"]')
        try:
            given[key.strip()] = loads(text)
        except ValueError:
            given[key.strip()] = text
    return config_of(given, where=name)


def with_settings(config: MethodConfig, **changes: Any) -> MethodConfig:
    """A copy of the configuration with some settings changed."""
    changed: MethodConfig = replace(config, **changes)  # type: ignore[type-var]
    return changed


@functools.lru_cache(maxsize=64)
def method_of(config: MethodConfig) -> Method:
    """The method of a configuration. Equal configurations share one."""
    return config.build()
