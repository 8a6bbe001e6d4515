"""The entry point `vllm.general_plugins`, which vLLM calls in each of its processes at start-up.

It registers dola's classes for supported architectures, and a check of the engine's settings for every architecture: if DoLa
does not support one, the engine refuses to start with a message, and never serves the model without DoLa instead.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from dola._version import __version__
from dola.errors import ConfigError, ModelError
from dola.integrations.vllm import speculation
from dola.integrations.vllm.architectures import ARCHITECTURES, UNTESTED
from dola.integrations.vllm.engines import SWITCH, served, why_not
from dola.serving.settings import ENGINE_HINT, Served

logger = logging.getLogger("vllm.dola")

STOCK_TORCH_COMPILE = 1
"""vLLM's CompilationMode that compiles a model as a whole."""

VERSION = "dola_version"
"""The key of dola's version in the engine's additional_config, set by the plugin."""


def register() -> None:
    """Register DoLa's model classes and settings check with vLLM. Called once in every process of an engine."""
    if (reason := why_not()) is not None:
        logger.warning("DoLa is not available: %s.", reason)
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for architecture in ModelRegistry.get_supported_archs():
        MODELS_CONFIG_MAP[architecture] = _checked(MODELS_CONFIG_MAP.get(architecture))
    speculation.install()
    for architecture in ARCHITECTURES:
        ModelRegistry.register_model(architecture, f"dola.integrations.vllm.models:{architecture}")


def _checked(original: Any) -> Any:
    """vLLM's hook for the settings of one architecture, followed by dola's check."""
    from vllm.model_executor.models.config import VerifyAndUpdateConfig

    from dola.integrations.vllm import gate, metrics

    class Checked(original or VerifyAndUpdateConfig):  # type: ignore[misc]
        @staticmethod
        def verify_and_update_config(vllm_config: Any) -> None:
            (original or VerifyAndUpdateConfig).verify_and_update_config(vllm_config)
            served[vllm_config.instance_id] = found = served_by(vllm_config)
            gate.install(required=found is not None)
            if found is not None:  # vLLM caches compiled graphs by its settings, and these graphs are dola's
                vllm_config.additional_config = {**vllm_config.additional_config, VERSION: __version__}
                metrics.start()
                logger.info("%s", found.in_force())
            weakref.finalize(vllm_config, served.pop, vllm_config.instance_id, None)  # an engine that has ended checks nothing

    return Checked


def served_by(vllm_config: Any) -> Served | None:
    """The settings of an engine with this configuration; None without DoLa.

    Raises:
        ConfigError: DoLa's settings are not allowed, or other settings of the engine are incompatible with DoLa.
        ModelError: DoLa does not support the architecture.
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
    found = Served.of(given, num_layers=text.num_hidden_layers, tied=bool(getattr(text, "tie_word_embeddings", False)))
    return replace(found, speculates=vllm_config.speculative_config is not None)


def _layers_of_the_model(model_config: Any) -> Any:
    """`dola_layers` of the generation config that the engine uses, or None."""
    given = dict(getattr(model_config, "override_generation_config", None) or {})
    if getattr(model_config, "generation_config", "vllm") != "vllm":
        given = {**model_config.try_get_generation_config(), **given}
    return given.get("dola_layers")


def _check_engine(vllm_config: Any) -> None:
    """Refuse settings with which the engine would silently decode without DoLa, or wrongly."""
    architecture = vllm_config.model_config.architecture
    if architecture not in ARCHITECTURES:
        raise ModelError(
            f"DoLa does not support {architecture} in vLLM: the plugin cannot access its layers, or it has not been tested. "
            f"Supported: {', '.join(ARCHITECTURES)}.",
            hint='omit "dola" from additional_config, or decode it with transformers: dola.generate(model, ...)',
        )
    if architecture in UNTESTED:
        logger.warning("DoLa with %s has not been tested: compare some answers with dola.generate.", architecture)
    parallel, model = vllm_config.parallel_config, vllm_config.model_config
    adapted = getattr(vllm_config.lora_config, "target_modules", None) or ()  # modules, by name or by path
    speculates = speculation.why_not(vllm_config)
    refused = {
        "speculative decoding (speculative_config)": speculates,
        "batch-sharded sampling (enable_batch_sharded_sampling)": parallel.enable_batch_sharded_sampling,
        "the Rust front end (VLLM_USE_RUST_FRONTEND)": os.environ.get("VLLM_USE_RUST_FRONTEND", "0") != "0",
        "stock torch.compile (compilation_config.mode=1)": vllm_config.compilation_config.mode == STOCK_TORCH_COMPILE,
        "pooling models (runner)": model.runner_type != "generate",
        "prefill context parallelism": getattr(parallel, "prefill_context_parallel_size", 1) > 1,
        "adapters on the head (lora_target_modules)": any(name.endswith("lm_head") for name in adapted),
    }
    for what, is_on in refused.items():
        if is_on:
            why = is_on if isinstance(is_on, str) else _WHY.get(what.removeprefix("the ").partition(" ")[0], _NOT_YET)
            raise ConfigError(
                f"{what} is not compatible with DoLa in vLLM: {why}.",
                hint=f'omit it, or omit "dola" from additional_config, or switch DoLa off for the process: {SWITCH}=0',
            )


_NOT_YET = "it is not supported yet"
_WHY = {
    "batch-sharded": "it reads the head without the code that contrasts layers",
    "adapters": "vLLM applies them to one row of logits for each request, and DoLa reads several",
    "stock": "it also compiles the code that joins the layers, and torch 2.13 then gave wrong tokens on CPUs: omit the mode",
    "Rust": "it does not run Python, so requests would not be checked",
    "pooling": "they do not decode tokens",
}
