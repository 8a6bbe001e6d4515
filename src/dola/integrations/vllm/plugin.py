"""What vLLM calls in each of its processes at start-up, by the entry point `vllm.general_plugins`.

It registers our classes for the architectures that we know, and a check of the engine's settings for every architecture: one
that cannot be decoded with DoLa is refused when the engine starts, in words, and never served plainly in its place.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping
from typing import Any

from dola._version import __version__
from dola.errors import ConfigError, ModelError
from dola.integrations.vllm.architectures import ARCHITECTURES, UNTESTED
from dola.integrations.vllm.engines import SWITCH, served, why_not
from dola.serving.settings import ENGINE_HINT, Served

logger = logging.getLogger("vllm.dola")

STOCK_TORCH_COMPILE = 1
"""vLLM's CompilationMode that compiles a model as a whole."""

VERSION = "dola_version"
"""What our version is called in the engine's additional_config, where the plugin puts it."""


def register() -> None:
    """Have vLLM know DoLa. Called once in every process of an engine."""
    if (reason := why_not()) is not None:
        logger.warning("DoLa is not available: %s.", reason)
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for architecture in ModelRegistry.get_supported_archs():
        MODELS_CONFIG_MAP[architecture] = _checked(MODELS_CONFIG_MAP.get(architecture))
    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, f"dola.integrations.vllm.models:{architecture}")


def _checked(original: Any) -> Any:
    """vLLM's hook for the settings of one architecture, with ours behind it."""
    from vllm.model_executor.models.config import VerifyAndUpdateConfig

    from dola.integrations.vllm import gate

    class Checked(original or VerifyAndUpdateConfig):  # type: ignore[misc]
        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            (original or VerifyAndUpdateConfig).verify_and_update_config(vllm_config)
            served[vllm_config.instance_id] = found = served_by(vllm_config)
            gate.install(required=found is not None)
            if found is not None:  # vLLM's cache of compiled graphs goes by its settings, and the graphs are ours
                vllm_config.additional_config = {**vllm_config.additional_config, VERSION: __version__}
            weakref.finalize(vllm_config, served.pop, vllm_config.instance_id, None)  # an engine that is gone checks nothing

    return Checked


def served_by(vllm_config: Any) -> Served | None:
    """What an engine of this configuration serves; None without DoLa.

    Raises:
        ConfigError: Settings of DoLa that are not allowed, or other settings of the engine that do not go with it.
        ModelError: An architecture that cannot be decoded with DoLa.
    """
    additional = vllm_config.additional_config if isinstance(vllm_config.additional_config, dict) else {}
    if misspelt := [name for name in additional if name.lower().startswith("dola") and name not in ("dola", VERSION)]:
        raise ConfigError(f'{misspelt[0]!r} in additional_config is not a setting; DoLa\'s are in "dola".', hint=ENGINE_HINT)
    if (given := additional.get("dola")) is None:
        return None
    _check_engine(vllm_config)
    model = vllm_config.model_config
    if isinstance(given, Mapping) and "layers" not in given and (layers := _layers_of_the_model(model)) is not None:
        given = {**given, "layers": layers}
    text = model.hf_text_config
    return Served.of(given, num_layers=text.num_hidden_layers, tied=bool(getattr(text, "tie_word_embeddings", False)))


def _layers_of_the_model(model_config: Any) -> Any:
    """`dola_layers` of the generation config that the engine uses; None where it names none."""
    given = dict(getattr(model_config, "override_generation_config", None) or {})
    if getattr(model_config, "generation_config", "vllm") != "vllm":
        given = {**model_config.try_get_generation_config(), **given}
    return given.get("dola_layers")


def _check_engine(vllm_config: Any) -> None:
    """Refuse what would decode plainly, or wrongly, in silence."""
    architecture = vllm_config.model_config.architecture
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"{architecture} cannot be decoded with DoLa in vLLM: its layers cannot be had there, or nobody has looked. "
            f"There are {', '.join(ARCHITECTURES)}.",
            hint='leave "dola" out of additional_config, or decode it with transformers: dola.generate(model, ...)',
        )
    if architecture in UNTESTED:
        logger.warning("DoLa with %s has not been tested: compare some answers with dola.generate.", architecture)
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    adapted = getattr(vllm_config.lora_config, "target_modules", None) or ()  # modules, by name or with what they are in
    refused = {
        "speculative decoding (speculative_config)": vllm_config.speculative_config,
        "batch-sharded sampling (enable_batch_sharded_sampling)": parallel.enable_batch_sharded_sampling,
        "the Rust front end (VLLM_USE_RUST_FRONTEND)": os.environ.get("VLLM_USE_RUST_FRONTEND", "0") != "0",
        "stock torch.compile (compilation_config.mode=1)": vllm_config.compilation_config.mode == STOCK_TORCH_COMPILE,
        "pooling models (runner)": model.runner_type != "generate",
        "prefill context parallelism": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "adapters on the head (lora_target_modules)": any(name.endswith("lm_head") for name in adapted),
    }
    for what, is_on in refused.items():
        if is_on:
            why = _WHY.get(what.removeprefix("the ").partition(" ")[0], "it has not been made to")
            raise ConfigError(
                f"{what} does not go with DoLa in vLLM: {why}.",
                hint=f'leave it out, or leave "dola" out of additional_config, or switch DoLa off for the process: {SWITCH}=0',
            )


_WHY = {
    "speculative": "vLLM drops what tells a request's rows apart, and drafts would be held against plain scores",
    "batch-sharded": "it reads the head past the place where layers are contrasted",
    "adapters": "vLLM applies them to one row of logits for each request, and DoLa reads several",
    "stock": "it compiles what joins the layers, too, and torch 2.13 made wrong tokens of that on CPUs: leave the mode to vLLM",
    "Rust": "it runs no Python, so nothing checks what requests ask for",
    "pooling": "there are no tokens to decode",
}
