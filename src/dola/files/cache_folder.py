"""The folder in which dola keeps what it has fetched or compiled."""

from __future__ import annotations

import os
from pathlib import Path

from dola.errors import ModelFileError


def cache_folder() -> Path:
    """Where embedded models are kept: $DOLA_CACHE, or `dola` in the user's cache folder."""
    if chosen := os.environ.get("DOLA_CACHE"):
        return _without_tilde(chosen)
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (given if given.is_absolute() else _without_tilde("~/.cache")) / "dola"  # the XDG specification ignores others


def _without_tilde(path: str) -> Path:
    """A path with the user's folder for ~, which a shell leaves alone in quotes."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ModelFileError(
            f"{path!r} cannot be found: there is no home folder.", hint="set DOLA_CACHE to a folder, or HOME"
        ) from None
