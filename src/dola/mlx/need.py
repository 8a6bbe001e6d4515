"""Whether MLX and mlx-lm are installed."""

from __future__ import annotations

from importlib.util import find_spec

from dola.errors import MissingExtraError
from dola.installed.hints import install_line

PACKAGES = {"mlx": "mlx", "mlx_lm": "mlx-lm"}
"""What the extra brings: names of imports and of packages."""


def check() -> None:
    """Raise MissingExtraError where MLX or mlx-lm is missing."""
    if missing := [package for name, package in PACKAGES.items() if find_spec(name) is None]:
        raise MissingExtraError(
            f"Decoding with MLX needs {' and '.join(missing)}, not installed here.",
            hint=install_line("mlx"),
        )
