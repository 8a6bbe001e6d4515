"""The engines of this process: what each serves, and what keeps DoLa out of this vLLM. Requests are checked by it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from dola.errors import ConfigError
from dola.integrations.vllm import SUPPORTED, install_vllm, supports
from dola.methods.config import MethodConfig
from dola.serving.settings import Served, request_options

SWITCH = "DOLA_VLLM"
"""Environment variable: 0 leaves vLLM as it is."""

served: dict[str, Served | None] = {}
"""Engines of this process, by the id of their configuration; None for those without DoLa. Requests are checked by it."""

_UNKNOWN = "unknown"


def is_off() -> bool:
    """Whether somebody has switched DoLa off."""
    return os.environ.get(SWITCH) == "0"


def why_not() -> str | None:
    """What keeps DoLa out of this vLLM, in words; None where nothing does."""
    if is_off():
        return f"it is switched off ({SWITCH}=0)"
    import vllm

    if not supports(vllm.__version__):
        return f"this is vLLM {vllm.__version__}, and dola supports {SUPPORTED}.x: {install_vllm()}"
    return None


def engines_of(vllm_config: Any = None) -> list[Served | None]:
    """What the engine of this configuration serves; without one, what those of this process serve."""
    found = served.get(getattr(vllm_config, "instance_id", ""), _UNKNOWN)
    return list(served.values()) or [None] if isinstance(found, str) else [found]


def config_of(engine: Served | None, extra_args: Mapping[str, Any] | None) -> MethodConfig | None:
    """How an engine decodes a request with these extra arguments: None is plainly.

    Raises:
        ConfigError: Options that are not allowed, or that ask an engine without DoLa for it.
    """
    if engine is not None:
        return engine.of_request(extra_args)
    asked = request_options(extra_args)
    if asked.get("layers", "off") != "off" or "method" in asked:
        raise ConfigError(
            f"This server does not decode with DoLa: {why_not() or 'it was started without it'}.",
            hint="""--additional-config '{"dola": {"layers": "high"}}'""",
        )
    return None
