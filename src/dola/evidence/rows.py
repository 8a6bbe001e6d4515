"""The rows of a report that the user chooses: a named set, or a file with the settings of each row.

[{"layers": "high", "scores": "distribution"}, {"method": "sled", "rate": 2}, {"layers": [25], "name": "mine"},
 {"layers": "high", "control": "random"}]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dola.errors import UsageError
from dola.evidence.ways import AS_DECODED, Role, Way
from dola.files.json_text import loads
from dola.files.text_file import decoded
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import spelled
from dola.methods.registry import METHODS, config_of, required_settings, settings_of
from dola.scoring.recipe import PREMATURE, Recipe

SETS = ("standard", "methods", "full")
_EXAMPLE = '[{"layers": "high"}, {"layers": [25], "name": "layer 25"}]'


def rows_by_name(ways: str, usual: Mapping[str, Any]) -> str | list[Way]:
    """What `--ways` says before a model is loaded: a set stays a name, a file is read, once.

    Raises:
        UsageError, ConfigError: See `read_rows`.
    """
    return ways if ways in SETS else read_rows(Path(ways), usual)


def chosen_rows(
    ways: str | Path | Sequence[Way], own: MethodConfig, usual: Mapping[str, Any], seed: int
) -> tuple[list[Way], bool]:
    """Further rows, and whether the standard ones are there too.

    Args:
        ways: The name of a set, a file, or the rows themselves.
        own: The settings of DoLa's rows.
        usual: See `read_rows`.
        seed: Seed of random layers.

    Raises:
        UsageError, ConfigError: See `read_rows`.
    """
    if ways == "standard":
        return [], True
    if ways == "methods":
        return [_row(own), *rows_of_methods(_shared(own))], False
    if ways == "full":
        return [*_variants(own), *_reshaped(own), *rows_of_methods(_shared(own))], True
    return with_seed(read_rows(Path(ways), usual) if isinstance(ways, (str, Path)) else ways, seed), False


def decoded_rows(rows: Sequence[Way], ways: str | Path | Sequence[Way]) -> list[Way]:
    """The rows that a task can decode with: controls of likelihoods are left out of a set.

    Raises:
        UsageError: The user's own rows have such a control.
    """
    controls = [way for way in rows if way.recipe is not None and way.recipe.premature != "divergent"]
    if controls and ways not in SETS:
        raise UsageError(
            f"The row {controls[0].name!r} is a control of likelihoods, and this task generates text.",
            hint="leave it out of --ways, or evaluate a multiple-choice task",
        )
    return [way for way in rows if way not in controls]


def _shared(own: MethodConfig) -> dict[str, Any]:
    """The settings that other methods share with the DoLa rows: how layers are read out."""
    return own.lens_settings(own.lens)


def _variants(own: MethodConfig) -> list[Way]:
    """DoLa at other strengths, with the other kind of scores and, if it has a lens, without it."""
    if not isinstance(own, DoLaConfig):
        return []
    settings = own.as_dict()
    other = "contrast" if settings.get("scores") == "distribution" else "distribution"
    changes: list[dict[str, Any]] = [{"scores": other}, *({"strength": value} for value in (0.25, 0.5))]
    if settings.get("lens") is not None:
        changes.append({"lens": None})
    found = [replace(own, **change) for change in changes if change.keys() <= settings.keys()]
    return [_row(config) for config in found if config != own]


def _reshaped(own: MethodConfig) -> list[Way]:
    """Controls that read no layer but make the plausible set flatter or sharper. They need a threshold."""
    if not isinstance(own, DoLaConfig):
        return []
    usual = [each for each in DoLaConfig.options() if each.facts.by_task]
    given = own if Recipe(own).constrained else replace(own, **{each.name: each.default for each in usual})
    said = "".join(f", {each.words(each.default)}" for each in usual if given != own)
    return [
        Way(
            f"{_CONTROLS[name]}{said}",
            "the model's own distribution with that, no layer read",
            Recipe(given, premature=name),
            role=Role.CONTROL,
        )
        for name in ("flat", "sharp")
    ]


def _row(config: MethodConfig) -> Way:
    return Way(name_of(config), AS_DECODED, Recipe(config))


def name_of(config: MethodConfig) -> str:
    """A row's name: the method, its layers, and the settings that differ from the defaults."""
    kind = type(config)
    label = "DoLa" if isinstance(config, DoLaConfig) else config.method
    layers = spelled(config.layers)
    usual = isinstance(config, DoLaConfig) or config.layers != getattr(kind, "layers", None)
    parts = [f"{label} {layers}" if usual else label]
    for each in kind.options():
        value = getattr(config, each.name)
        if value != each.default and not each.facts.by_task:
            parts.append(each.words(Path(value).name if each.name == "lens" else value))
    return ", ".join(parts)


def rows_of_methods(own: Mapping[str, Any]) -> list[Way]:
    """Each method other than DoLa, with its defaults and those settings in `own` that it has."""
    found = []
    for name, kind in METHODS.items():
        if name == DoLaConfig.method or required_settings(kind) not in ([], ["layers"]):
            continue
        fields = settings_of(kind)
        found.append(_row(config_of({"method": name, **{key: value for key, value in own.items() if key in fields}})))
    return found


def read_rows(path: Path, usual: Mapping[str, Any]) -> list[Way]:
    """The rows that a file lists.

    Args:
        path: A JSON file that holds a list of objects, each with the settings of a method. An object may also have a "name",
            and a "control" that makes the row a control: "random" draws a candidate for each token; "none" does not contrast;
            "flat" and "sharp" do not contrast either and make the plausible set uniform or sharper.
        usual: Defaults for settings that DoLa's rows omit: those of the paper's runs of the task.

    Raises:
        UsageError: The file cannot be read, or an entry is not a row.
        ConfigError: A setting is not allowed.
    """
    try:
        given = loads(decoded(path.read_bytes(), path, name=f"--ways {str(path)!r}", error=UsageError))
    except OSError as error:
        raise UsageError(f"--ways {str(path)!r}: {error.strerror}.", hint=f"use {', '.join(SETS)}, or a JSON file") from None
    except ValueError as error:
        raise UsageError(f"--ways {str(path)!r} is not JSON: {error}.", hint=f"write {_EXAMPLE}") from None
    if not isinstance(given, list) or not given or not all(isinstance(row, dict) for row in given):
        raise UsageError(f"--ways {str(path)!r} does not hold a list of rows.", hint=f"write {_EXAMPLE}")
    ways = [_way(dict(row), usual) for row in given]
    names = [way.name for way in ways]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f"--ways {str(path)!r} has two rows {twice[0]!r}.", hint='give one of them another "name"')
    return ways


def _way(row: dict[str, Any], usual: Mapping[str, Any]) -> Way:
    name, control = row.pop("name", None), row.pop("control", None)
    if control not in (None, *PREMATURE[1:]):
        raise UsageError(f'"control": {control!r} is unknown; allowed are {", ".join(PREMATURE[1:])}.', hint="leave it out")
    if row.get("method", DoLaConfig.method) == DoLaConfig.method:
        row = {**usual, **row}
    config = config_of(row)
    recipe = Recipe(config) if control is None else Recipe(config, premature=control)
    said = name_of(config) if control is None else f"{name_of(config)}, {_CONTROLS[control]}"
    role = Role.METHOD if control is None else Role.CONTROL
    return Way(str(name or said), AS_DECODED, recipe, role=role)


_CONTROLS = {
    "random": "random layer",
    "none": "constraint alone",
    "flat": "plausible set made uniform",
    "sharp": "plausible set sharpened",
}


def with_seed(ways: Sequence[Way], seed: int) -> list[Way]:
    """The rows with this seed for random layers."""
    return [
        way if way.recipe is None or way.recipe.premature != "random" else replace(way, recipe=replace(way.recipe, seed=seed))
        for way in ways
    ]
