"""The entry point `vllm.general_plugins`, which vLLM calls in each of its processes at start-up.

It registers dola's classes for all architectures that generate text, and a check of the engine's settings for every
architecture. An engine with settings that DoLa does not support refuses to start, and so does a model whose parts are not found
or do not pass the proof (proof.py): it never serves a model without DoLa instead.
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
from dola.integrations.vllm.architectures import TESTED, originals
from dola.integrations.vllm.engines import SWITCH, served, untested, why_not
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
    if (doubt := untested()) is not None:
        logger.warning("%s", doubt)
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for architecture in ModelRegistry.get_supported_archs():
        MODELS_CONFIG_MAP[architecture] = _checked(MODELS_CONFIG_MAP.get(architecture))
    speculation.install()
    for architecture in originals():
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
            if found is not None:
                check_architecture(vllm_config.model_config.architecture)
                # vLLM caches compiled graphs by its settings, and these graphs are dola's
                vllm_config.additional_config = {**vllm_config.additional_config, VERSION: __version__}
                metrics.start()
                logger.info("%s", found.in_force())
            weakref.finalize(vllm_config, served.pop, vllm_config.instance_id, None)  # an engine that has ended checks nothing

    return Checked


def check_architecture(architecture: str) -> None:
    """Refuse an architecture that another package brings: vLLM loads that package's class, which decodes without DoLa.

    Raises:
        ModelError: The architecture is not one of vLLM's own.
    """
    if architecture not in originals():
        raise ModelError(
            f"DoLa cannot be used with {architecture} in vLLM: it is not an architecture of vLLM itself that generates text.",
            hint='omit "dola" from additional_config, or decode it with transformers: dola.generate(model, ...)',
        )
    if architecture not in TESTED:
        logger.info("DoLa's tests do not run %s. Its parts are proved when the engine starts.", architecture)


def served_by(vllm_config: Any) -> Served | None:
    """The settings of an engine with this configuration; None without DoLa.

    Raises:
        ConfigError: DoLa's settings are not allowed, or other settings of the engine are incompatible with DoLa.
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
    if isinstance(given, Mapping) and vllm_config.parallel_config.pipeline_parallel_size == 1:
        given = {**({} if given.get("lens") else {"capture": "all"}), **given}  # a lens may lack layers; a pipeline sends them
    text = model.hf_text_config
    found = Served.of(given, num_layers=text.num_hidden_layers, tied=_is_tied(model))
    if found.config.lens is not None and vllm_config.lora_config is not None:
        logger.warning("Requests with an adapter are read through a lens that does not know it: %s.", found.config.lens)
    return replace(found, speculates=vllm_config.speculative_config is not None)


def _is_tied(model_config: Any) -> bool:
    """Whether head and input embedding share weights, as transformers decides it: by the outermost config that says."""
    configs = (getattr(model_config, "hf_config", None), model_config.hf_text_config)
    found = next((tied for each in configs if (tied := getattr(each, "tie_word_embeddings", None)) is not None), False)
    return bool(found)


def _layers_of_the_model(model_config: Any) -> Any:
    """`dola_layers` of the generation config that the engine uses, or None."""
    given = dict(getattr(model_config, "override_generation_config", None) or {})
    if getattr(model_config, "generation_config", "vllm") != "vllm":
        given = {**model_config.try_get_generation_config(), **given}
    return given.get("dola_layers")


def _check_engine(vllm_config: Any) -> None:
    """Refuse settings with which the engine would silently decode without DoLa, or wrongly."""
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
        "splitting of batches (enable_dbo)": getattr(parallel, "use_ubatching", False),
        "fast prefill with shared caches (kv_sharing_fast_prefill)": getattr(
            getattr(vllm_config, "cache_config", None), "kv_sharing_fast_prefill", False
        ),
        "models with an encoder of their own (Whisper, for instance)": getattr(model, "is_encoder_decoder", False),
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
    "splitting": "each part numbers its rows from zero",
    "fast": "later blocks see other rows than earlier ones",
    "models": "DoLa reads decoders alone",
    "adapters": "vLLM applies them to one row of logits for each request, and DoLa reads several",
    "stock": "it also compiles the code that joins the layers, and torch 2.13 then gave wrong tokens on CPUs: omit the mode",
    "Rust": "it does not run Python, so requests would not be checked",
    "pooling": "they do not decode tokens",
}
