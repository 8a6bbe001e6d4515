"""The classes that vLLM loads instead of its own: one for each of its architectures, made on demand.

    dola.integrations.vllm.models.LlamaForCausalLM    is   type("LlamaForCausalLM", (DoLaMixin, <vLLM's>), {})

Without `"dola"` in the engine's additional_config such a model behaves exactly like vLLM's own.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any


def originals() -> dict[str, tuple[str, str]]:
    """Module and class of each architecture that vLLM itself brings and that generates text."""
    from vllm.model_executor.models import registry

    kinds = (registry._TEXT_GENERATION_MODELS, registry._MULTIMODAL_MODELS, registry._TRANSFORMERS_BACKEND_MODELS)
    places = {name: place for kind in kinds for name, place in kind.items()}
    places |= registry._TRANSFORMERS_SUPPORTED_MODELS
    return {
        name: (module if "." in module else f"vllm.model_executor.models.{module}", own)
        for name, (module, own) in ((name, place[:2]) for name, place in places.items())
        if "Embedding" not in own and "Classification" not in own
    }


def __getattr__(architecture: str) -> Any:
    if architecture.startswith("_") or (place := originals().get(architecture)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {architecture!r}")
    from dola.integrations.vllm.mixin import DoLaMixin

    base = getattr(import_module(place[0]), place[1])
    made = type(base.__name__, (DoLaMixin, base), {"__module__": __name__, "__doc__": base.__doc__})
    globals()[architecture] = made
    return made
