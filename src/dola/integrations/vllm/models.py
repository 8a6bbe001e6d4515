"""The classes that vLLM loads instead of its own: one for each of its architectures, made on demand.

    dola.integrations.vllm.models.LlamaForCausalLM    is   type("LlamaForCausalLM", (DoLaMixin, <vLLM's>), {})

Without `"dola"` in the engine's additional_config such a model behaves exactly like vLLM's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dola.integrations.vllm.architectures import originals


def __getattr__(architecture: str) -> Any:
    if architecture.startswith("_") or (place := originals().get(architecture)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {architecture!r}")
    from dola.integrations.vllm.mixin import DoLaMixin

    base = getattr(import_module(place[0]), place[1])
    made = type(base.__name__, (DoLaMixin, base), {"__module__": __name__, "__doc__": base.__doc__})
    globals()[architecture] = made
    return made
