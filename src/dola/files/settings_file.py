"""Reads JSON files of settings, for the command's `--config` and `DoLaConfig.from_file`. Imports nothing heavy."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from dola.errors import ConfigError, DolaError
from dola.files.json_text import loads
from dola.files.records import described
from dola.files.text_file import read_text

EXAMPLE = '{"layers": "high", "max-new-tokens": 40}'


def read_object(
    path: str | os.PathLike[str],
    *,
    name: str,
    error: type[DolaError] = ConfigError,
    example: str = EXAMPLE,
) -> dict[str, Any]:
    """The JSON object that a file holds.

    Args:
        path: The file.
        name: Its name in messages.
        error: The class of error to raise.
        example: A valid file, for the hint.

    Raises:
        error: The file cannot be read, is not a JSON object, or lists a name twice.
    """
    text = read_text(Path(path), name=name, error=error)
    try:
        settings = loads(text)
    except ValueError as problem:
        raise error(f"{name} is not JSON: {problem}.", hint=f"write {example}") from None
    if not isinstance(settings, dict):
        raise error(f"{name} holds {described(settings)}, not a JSON object.", hint=f"write {example}")
    return settings
