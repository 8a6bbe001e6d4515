"""lm-evaluation-harness on vLLM: the model type "dola-vllm", which generates with DoLa.

    dola lm-eval --model dola-vllm --model_args pretrained=meta-llama/Llama-3.1-8B,layers=low --tasks gsm8k
    lm_eval.simple_evaluate(model=DolaVLLM("meta-llama/Llama-3.1-8B", layers="low"), tasks=["gsm8k"])

Tasks that measure log-likelihoods are refused: vLLM's log-probabilities of a given text are the model's own, without DoLa.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

from lm_eval.api.registry import register_model
from lm_eval.models.vllm_causallms import VLLM

from dola.errors import ConfigError, UsageError
from dola.integrations.lm_eval import config_from_arguments, taken_settings
from dola.integrations.lm_eval_text import CheckedText
from dola.integrations.vllm.engines import why_not
from dola.methods.config import DoLaConfig


@register_model("dola-vllm")
class DolaVLLM(CheckedText, VLLM):  # type: ignore[misc]
    """A model on vLLM that generates with DoLa.

    Args:
        pretrained: A hub id or a folder.
        layers: See "dola" in vLLM's additional_config. In --model_args, indices are joined by "+" ("layers=16+18").
        method: Name of a method other than DoLa.
        **kwargs: The other settings of the method, by the names of DoLaConfig's fields; all arguments of lm-eval's VLLM, and
            through it of vLLM's LLM.

    Raises:
        ConfigError: A value is not allowed, or DoLa is switched off in this process.
    """

    def __init__(
        self,
        pretrained: str,
        layers: str | int | Sequence[int] | None = None,
        *,
        method: str = DoLaConfig.method,
        **kwargs: Any,
    ) -> None:
        if (reason := why_not()) is not None:
            raise ConfigError(f"vLLM would decode without DoLa: {reason}", hint="--model vllm measures plain decoding")
        additional = kwargs.get("additional_config") or {}
        if "dola" in additional:
            raise ConfigError('additional_config has "dola", which layers and the other arguments set.', hint="omit it")
        settings = taken_settings(method, kwargs)
        config = config_from_arguments(method, layers, settings)  # reports mistakes before an engine starts
        given = {**config.as_dict(), "layers": config.layers if isinstance(config.layers, str) else list(config.layers)}
        given.pop("lazy", None)
        kwargs["additional_config"] = {**additional, "dola": given}
        super().__init__(pretrained, **kwargs)

    def _loglikelihood_tokens(self, *_: Any, **__: Any) -> NoReturn:
        raise UsageError(
            "This task measures log-likelihoods, and vLLM's log-likelihoods of a given text are the model's own, without DoLa.",
            hint="--model dola measures them with DoLa; --model vllm measures the model's own",
        )
