"""Whether an engine decodes a request as it asks: the one check of requests, by which they are admitted and counted."""

from __future__ import annotations

from typing import Any

from dola.errors import ConfigError
from dola.integrations.vllm import engines, speculation
from dola.methods.config import MethodConfig


def check(params: Any, engine: Any) -> MethodConfig | None:
    """The settings by which an engine decodes a request; None for plain decoding.

    Raises:
        ConfigError: The engine does not decode the request as it asks.
    """
    config = engines.config_of(engine, params.extra_args)
    _check(params, config)
    if config is not None and engine is not None and engine.speculates:
        speculation.check(params)
    return config


def _check(params: Any, config: MethodConfig | None) -> None:
    """Refuse an option that vLLM would answer with the model's own numbers, in a request that is decoded with DoLa."""
    wanted = (name for name in ("prompt_logprobs", "prompt_logprob_token_ids") if getattr(params, name, None) is not None)
    if config is not None and (name := next(wanted, None)):
        raise ConfigError(
            f"{name} (which `echo` with `logprobs` sets too) was given for a request that is decoded with DoLa; "
            "vLLM's log-probabilities of a prompt are the model's own.",
            hint='"dola_layers": "off" in this request\'s vllm_xargs gives those; dola.score gives DoLa\'s',
        )
