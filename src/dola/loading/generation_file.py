"""Checks a model's generation_config.json, or the settings in its config.json that replace it, before the model is loaded.

`from_pretrained` silently ignores a file that is not JSON, and fails with Python's own errors if a field has an unexpected
value. Here the file is read first. Fields that no verb uses are left out with a warning; any other is refused by name.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import GenerationConfig
from transformers.utils import cached_file

from dola.errors import ModelFileError
from dola.files.records import described
from dola.model.generation_fields import review, shown

logger = logging.getLogger("dola")

NAME = "generation_config.json"
_MAKERS: dict[str, Callable[[dict[str, Any]], GenerationConfig]] = {
    NAME: lambda fields: GenerationConfig(**fields),
    "config.json": GenerationConfig.from_model_config,
}
"""How transformers builds a generation config from each file; the second is used if the first does not exist."""
_PLACES = ("revision", "token", "local_files_only", "cache_dir", "subfolder")


def checked_generation_config(source: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments with which `from_pretrained` gives a model the generation config of its file.

    Args:
        source: The folder or hub id.
        settings: Arguments of `from_pretrained`. Used are those that locate files, and a `generation_config` that replaces
            the file.

    Returns:
        `generation_config=` if a field had to be left out, otherwise nothing.

    Raises:
        ModelFileError: The file is not JSON, or transformers refuses a field that cannot be left out.
    """
    path = None if settings.get("generation_config") is not None else _find(source, settings)
    if path is None:
        return {}
    try:
        given, make = _read(path), _MAKERS[path.name]
    except ModelFileError:
        if path.name == NAME:
            raise
        return {}  # loading the model reports what is wrong with its config.json
    error, found = _problem(make, given), review(given)
    if path.name == NAME and given.get("_from_model_config") and found.unknown:  # they do not become its attributes
        listed = ", ".join(shown(name, value) for name, value in found.unknown.items())
        logger.warning("%s: transformers does not read these fields: %s", path, listed)
    if error is None:
        return {}
    spare = [*found.option, *found.aside]
    left_out = next(([name] for name in spare if _problem(make, given, name) is None), spare)
    line = (str(error).strip() or repr(error)).splitlines()[0]
    if _problem(make, given, *left_out) is None:
        listed = ", ".join(shown(name, given[name]) for name in left_out)
        logger.warning("%s: left out %s, which transformers refuses: %s", path, listed, line)
        return {"generation_config": make(_without(given, *left_out))}
    culprits = [name for name in given if _problem(make, given, name) is None][:1] or _refused(make, given)
    raise ModelFileError(
        f"transformers refuses {', '.join(shown(name, given[name]) for name in culprits)} in {str(path)!r}: "
        f"{type(error).__name__}: {line}",
        hint=f"correct {' and '.join(culprits)}, or remove it",
    )


def _refused(make: Callable[[dict[str, Any]], Any], given: Mapping[str, Any]) -> list[str]:
    """A smallest set of fields that transformers refuses on their own."""
    kept = list(given)
    for name in given:
        rest = [other for other in kept if other != name]
        if _problem(make, {other: given[other] for other in rest}) is not None:
            kept = rest
    return kept


def folder_of(source: str, settings: Mapping[str, Any]) -> Path | None:
    """Where a model's files are on this machine, or None.

    Args:
        source: The folder or hub id.
        settings: Arguments of `from_pretrained`; some of them locate files.
    """
    path = _find(source, settings)
    return None if path is None else path.parent


def _find(source: str, settings: Mapping[str, Any]) -> Path | None:
    """The file that the generation config is read from, fetched if the source is a hub id; None if there is none."""
    if Path(source).is_dir():
        paths = (Path(source, settings.get("subfolder") or "", name) for name in _MAKERS)
        return next((path for path in paths if path.exists()), None)
    where = {name: settings[name] for name in _PLACES if name in settings}
    quiet = {f"_raise_exceptions_for_{what}": False for what in ("missing_entries", "connection_errors", "gated_repo")}
    try:
        paths = (cached_file(source, name, **quiet, **where) for name in _MAKERS)
        return next((Path(path) for path in paths if path is not None), None)
    except OSError:  # a name or revision that does not exist: loading the model reports it
        return None


def _read(path: Path) -> dict[str, Any]:
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelFileError(f"{str(path)!r} cannot be read: {error.strerror}.", hint="check its permissions") from None
    except ValueError as error:
        raise ModelFileError(
            f"{str(path)!r} is not JSON: {error}.", hint="fetch the file again, or remove it for transformers' defaults"
        ) from None
    if not isinstance(given, dict):
        raise ModelFileError(f"{str(path)!r} holds {described(given)}, not an object.", hint="fetch it again, or remove it")
    return given


def _without(given: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in given.items() if name not in names}


def _problem(make: Callable[[dict[str, Any]], Any], given: Mapping[str, Any], *left_out: str) -> Exception | None:
    """What GenerationConfig raises for these fields, or None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            make(_without(given, *left_out))
    except Exception as error:
        return error
    return None
