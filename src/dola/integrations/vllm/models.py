"""The classes that vLLM loads instead of its own: one for each architecture, made on demand.

    dola.integrations.vllm.models.LlamaForCausalLM    is   type("LlamaForCausalLM", (DoLaMixin, <vLLM's>), {})

Without `"dola"` in the engine's additional_config such a model behaves exactly like vLLM's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from dola.integrations.vllm.architectures import ARCHITECTURES


def __getattr__(architecture: str) -> Any:
    if architecture not in ARCHITECTURES:
        raise AttributeError(f"module {__name__!r} has no attribute {architecture!r}")
    from vllm.model_executor.models.registry import _VLLM_MODELS

    from dola.integrations.vllm.mixin import DoLaMixin

    module, name = _VLLM_MODELS[architecture][:2]
    base = getattr(import_module(module if "." in module else f"vllm.model_executor.models.{module}"), name)
    made = type(base.__name__, (DoLaMixin, base), {"__module__": __name__, "__doc__": base.__doc__})
    globals()[architecture] = made
    return made
