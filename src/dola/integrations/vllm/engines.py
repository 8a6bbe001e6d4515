"""The engines of this process with their settings, for checking requests, and why DoLa may be unavailable."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dola.errors import ConfigError
from dola.installed.hints import install_vllm
from dola.integrations.vllm import TESTED_SERIES, is_tested
from dola.integrations.vllm.contract import CONTRACT, failures
from dola.methods.config import MethodConfig
from dola.serving.settings import Served, request_options

SWITCH = "DOLA_VLLM"
"""Environment variable: 0 turns DoLa off in vLLM."""

served: dict[str, Served | None] = {}
"""Settings of this process's engines, by the id of their configuration; None for those without DoLa."""

_UNKNOWN = "unknown"


def is_off() -> bool:
    """Whether DoLa is switched off."""
    return os.environ.get(SWITCH) == "0"


def why_not() -> str | None:
    """Why DoLa is not available in this vLLM, as a clause for messages; None if it is."""
    if is_off():
        return f"it is switched off ({SWITCH}=0)"
    import vllm

    if not is_tested(vllm.__version__) and (lacking := failures(_folder(vllm))):
        return f"this is vLLM {vllm.__version__}, which differs from what dola uses: {'; '.join(lacking)}: {install_vllm()}"
    return None


def untested() -> str | None:
    """A warning for a vLLM that the tests have not run but that has what dola uses; None for one that they have run."""
    import vllm

    if is_tested(vllm.__version__):
        return None
    return (
        f"DoLa's tests have not run vLLM {vllm.__version__}; they run {TESTED_SERIES}.x. It has all {len(CONTRACT)} names "
        "that dola uses. Compare some answers with dola.generate."
    )


def _folder(vllm: Any) -> Path | None:
    return None if getattr(vllm, "__file__", None) is None else Path(vllm.__file__).parent


def engines_of(vllm_config: Any = None) -> list[Served | None]:
    """The settings of the engine with this configuration; without one, of all engines of this process."""
    found = served.get(getattr(vllm_config, "instance_id", ""), _UNKNOWN)
    return list(served.values()) or [None] if isinstance(found, str) else [found]


def config_of(engine: Served | None, extra_args: Mapping[str, Any] | None) -> MethodConfig | None:
    """The configuration with which an engine decodes a request with these extra arguments; None means without DoLa.

    Raises:
        ConfigError: The options are not allowed, or request DoLa from an engine without it.
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
