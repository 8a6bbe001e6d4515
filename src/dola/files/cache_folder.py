"""The folder where dola keeps downloads and compiled kernels."""

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
    """A path with ~ replaced by the user's home folder, which a shell does not do inside quotes."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ModelFileError(
            f"{path!r} cannot be resolved: the home folder is not known.", hint="set DOLA_CACHE to a folder, or HOME"
        ) from None
