"""Speculative decoding with n-grams: all rows of a request, drafts and bonus, are contrasted before drafts are checked.

    rows of logits      request 0: draft, draft, bonus | request 1: bonus | ...      all read the contrast
    rejection sampler   keeps a draft if the contrast would have chosen it

Drafts by n-grams come from the text alone, so they need no scores. With speculation vLLM's runner V1 leaves out logits
processors of plugins, which record the request of each row. So dola adds its processor again, and reads the number of drafts of
each request where the runner computes it. The rejection sampler gives the processor only a request's last row, so requests
with DoLa that may ban tokens are refused, and so are those that sample: see `check`.
"""

from __future__ import annotations

import sys
from functools import wraps
from importlib import import_module
from typing import Any

from dola.errors import ConfigError
from dola.installed.hints import install_vllm
from dola.serving.rows import batch_of

NGRAM = "ngram"
BUILDER, RUNNER = "vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu_model_runner"
PROCESSOR = "dola.integrations.vllm.requests", "DoLaRequests"
"""dola's logits processor, by name as in the entry point: it needs the plugin, which needs this module."""
COUNTING = "_calc_spec_decode_metadata"


def why_not(vllm_config: Any) -> str | None:
    """Why an engine's speculation is not compatible with DoLa, as a clause; None if it is, or if there is none."""
    speculative = vllm_config.speculative_config
    if speculative is None:
        return None
    if speculative.method != NGRAM:
        return f'only drafts by n-grams ({{"method": "{NGRAM}"}}) are supported, and this is {speculative.method!r}'
    if getattr(speculative, "rejection_sample_method", "standard") == "synthetic":
        return "synthetic acceptance keeps drafts that no scores would choose"
    if vllm_config.use_v2_model_runner:
        return "with runner V2 it has not been tested: VLLM_USE_V2_MODEL_RUNNER=0"
    if vllm_config.parallel_config.pipeline_parallel_size > 1:
        return "in a pipeline of several stages it has not been tested"
    return None


def install() -> None:
    """Add dola's processor to vLLM's runner V1 if it speculates. Called once in every process of an engine."""
    import vllm.v1.sample.logits_processor as builder

    if not hasattr(builder.build_logitsprocs, "dola_adds"):
        builder.build_logitsprocs = _adding(builder.build_logitsprocs)
    if (runner := sys.modules.get(RUNNER)) is not None:
        runner.build_logitsprocs = builder.build_logitsprocs  # type: ignore[attr-defined]


def _adding(original: Any) -> Any:
    @wraps(original)
    def build_logitsprocs(vllm_config: Any, device: Any, is_pin_memory: bool, *args: Any, **kwargs: Any) -> Any:
        found = original(vllm_config, device, is_pin_memory, *args, **kwargs)
        if vllm_config.speculative_config is not None and "dola" in (vllm_config.additional_config or {}):
            _count_drafts()
            processor = getattr(import_module(PROCESSOR[0]), PROCESSOR[1])
            found.non_argmax_invariant.append(processor(vllm_config, device, is_pin_memory))
        return found

    build_logitsprocs.dola_adds = True  # type: ignore[attr-defined]
    return build_logitsprocs


def _count_drafts() -> None:
    """Record the number of rows of each request, where the runner computes it: before the forward pass.

    Raises:
        ConfigError: This vLLM's runner has no such place.
    """
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner

    original = getattr(GPUModelRunner, COUNTING, None)
    if original is None:
        raise ConfigError(
            f"This vLLM has no {RUNNER}.GPUModelRunner.{COUNTING}, where dola counts drafts.", hint=install_vllm()
        )
    if hasattr(original, "dola_counts"):
        return

    @wraps(original)
    def calculated(self: Any, num_draft_tokens: Any, *args: Any, **kwargs: Any) -> Any:
        batch_of(self.vllm_config).spread((num_draft_tokens + 1).tolist())
        return original(self, num_draft_tokens, *args, **kwargs)

    calculated.dola_counts = True  # type: ignore[attr-defined]
    setattr(GPUModelRunner, COUNTING, calculated)


_WRONG_DRAWS = (
    "vLLM 0.32 replaces drafts by draws from wrong probabilities on CPUs, and elsewhere only greedy decoding was tested"
)
GREEDY = 1e-5
"""Temperatures below this are greedy in vLLM."""


def check(params: Any) -> None:
    """Refuse a request with DoLa whose tokens might not be DoLa's, on an engine that speculates.

    Raises:
        ConfigError: It may ban tokens, or samples.
    """
    named = ("structured_outputs", "bad_words", "allowed_token_ids", "min_tokens", "logit_bias")
    name = next((name for name in named if getattr(params, name, None)), None)
    why = "there vLLM does not show dola the rows of drafts after tokens are banned"
    if name is None and params.temperature >= GREEDY:
        name, why = "temperature", _WRONG_DRAWS
    if name is not None:
        raise ConfigError(
            f"{name} was given for a request that is decoded with DoLa, on a server that speculates: {why}.",
            hint='"dola_layers": "off" in this request\'s vllm_xargs, '
            + ('"temperature": 0, ' if name == "temperature" else "")
            + "or a server without --speculative-config",
        )
