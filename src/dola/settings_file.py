"""JSON files of settings: what `--config` of the command and `DoLaConfig.from_file` read. Imports nothing heavy."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from dola.errors import ConfigError, DolaError

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
        name: What messages call it.
        error: What is raised.
        example: A file that would do, for the hint.

    Raises:
        error: The file cannot be read, or is no JSON object.
    """
    try:
        settings = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as problem:
        raise error(f"{name}: {problem.strerror}.", hint="check the path") from None
    except ValueError as problem:  # not JSON, or not UTF-8
        raise error(f"{name} is not JSON: {problem}.", hint=f"write {example}") from None
    if not isinstance(settings, dict):
        raise error(f"{name} holds a JSON {type(settings).__name__}, not an object.", hint=f"write {example}")
    return settings
