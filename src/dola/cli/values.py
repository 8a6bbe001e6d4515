"""Helpers for options: checks of values, and completions."""

from __future__ import annotations

import math
from typing import Any

import typer

from dola.errors import UsageError


def complete(*values: str) -> Any:
    """A shell completion that offers these values."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def between(low: float, high: float = math.inf) -> Any:
    """A callback that refuses values outside [low, high], and infinity."""

    def check(param: typer.CallbackParam, value: float | None) -> float | None:
        if value is not None and not (low <= value <= high and math.isfinite(value)):
            allowed = f"{low:g} or more" if math.isinf(high) else f"{low:g} to {high:g}"
            flag = max(param.opts, key=len)
            raise UsageError(f"{flag} {value} is out of range; allowed is {allowed}.", hint=f"leave {flag} out for the default")
        return value

    return check
