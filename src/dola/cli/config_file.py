"""`--config FILE`: reads a JSON file of options, by name, as defaults of the command."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from dola.cli.output import say
from dola.errors import UsageError
from dola.files.json_text import dumps
from dola.files.settings_file import read_object


def read_config_file(path: Path, parameters: Sequence[Any], *, unused: Collection[str] = ()) -> dict[str, Any]:
    """The settings of a JSON file as click's defaults: parameter names, and values as a user would type them.

    Args:
        path: The file.
        parameters: The command's parameters.
        unused: Options of other commands that files may name; said and left out.

    Raises:
        UsageError: The file cannot be read or is not a JSON object, a key is not an option, or a value has the wrong type.
    """
    options = {
        max(parameter.opts, key=len).lstrip("-"): parameter
        for parameter in parameters
        if parameter.param_type_name == "option" and parameter.name not in ("config", "help")
    }
    return {
        options[key].name: _typed(path, key, value, options[key])
        for key, value in read_object(path, name=f"--config {str(path)!r}", error=UsageError).items()
        if not _is_unused(path, key, unused) and _is_option(path, key, options)
    }


def _is_unused(path: Path, key: str, unused: Collection[str]) -> bool:
    if key in unused:
        say(f"--config {str(path)!r}: {key!r} is not used here.")
    return key in unused


def _is_option(path: Path, key: str, options: dict[str, Any]) -> bool:
    if key not in options:
        raise UsageError(
            f"--config {str(path)!r}: {key!r} is not an option of this command. Options: {', '.join(options)}.",
            hint='use the options\' names without leading dashes; for --no-chat write "chat": false',
        )
    return True


def _typed(path: Path, key: str, value: Any, option: Any) -> Any:
    """A value of a JSON file as a user would type it on the command line."""
    if option.is_flag:
        if not isinstance(value, bool):
            raise UsageError(f"--config {str(path)!r}: {key!r} is {value!r}. Allowed: true and false.", hint=f'"{key}": true')
        return value
    if option.multiple:
        # [26, 28] is one set of layers, as for options that are given once; [[26, 28]] and ["26,28", "low"] are columns.
        several = isinstance(value, list) and not _is_numbers(value)
        return [_word(path, key, item) for item in (value if several else [value])]
    return _word(path, key, value)


def _is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(item) is int for item in value)


def _word(path: Path, key: str, value: Any) -> str:
    if _is_numbers(value):
        return ",".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise UsageError(
            f"--config {str(path)!r}: {key!r} is {dumps(value)}. Allowed: a word or a number.",
            hint=f"write the value as for --{key}, or omit it",
        )
    if isinstance(value, str) and any(each == "\0" or "\ud800" <= each <= "\udfff" for each in value):
        raise UsageError(
            f"--config {str(path)!r}: {key!r} is {dumps(value)}, with a character that is not allowed in an option.",
            hint=f"correct it, or give --{key} on the command line",
        )
    return str(value)
