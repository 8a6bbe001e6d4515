"""lm-evaluation-harness: the model type "dola", for its command line and for `simple_evaluate`.

    dola lm-eval --model dola --model_args pretrained=meta-llama/Meta-Llama-3-8B,layers=high --tasks truthfulqa_mc1,gsm8k
    lm_eval.simple_evaluate(model=DolaLM("meta-llama/Meta-Llama-3-8B", layers="high"), tasks=["truthfulqa_mc1"])

Log-likelihoods come from `dola.score`, so that contexts which requests share run once; texts are generated on the attached
model. HFLM takes log_softmax of whatever its forward returns and reads the head at every position; that is replaced.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM  # whose package registers the built-in types: before ours, or they would be hidden
from torch import Tensor

import dola
from dola.config import DoLaConfig
from dola.embedded import EMBEDDED
from dola.errors import ConfigError
from dola.integrations.lm_eval_text import CheckedBatches
from dola.recipe import Recipe
from dola.score import score

NORMALISATIONS = {"decoding": "masked", "full": "full", "none": "none"}
"""How log-likelihoods are normalised: as decoding does it, or as the reference's `post_softmax` on and off (Recipe.softmax)."""


@register_model("dola")
class DolaLM(CheckedBatches, HFLM):  # type: ignore[misc]
    """A Hugging Face model that scores and generates with DoLa.

    Args:
        pretrained: A hub id, a folder, a model object, or one of dola's embedded models.
        layers: As in DoLaConfig; in --model_args indices are joined by "+" ("layers=16+18"); "off" is the model itself.
        relative_top, divergence, final_norm: As in DoLaConfig.
        normalisation: "decoding", "full" or "none": see NORMALISATIONS.
        **kwargs: All arguments of HFLM.

    Raises:
        ConfigError: A value that is not allowed.
        LayersError: Layers that this model does not have; at the first request.
    """

    def __init__(
        self,
        pretrained: Any,
        layers: str | int | Sequence[int] = "high",
        relative_top: float = 0.1,
        divergence: str = "jsd",
        final_norm: bool = True,
        normalisation: str = "decoding",
        **kwargs: Any,
    ) -> None:
        if normalisation not in NORMALISATIONS:
            raise ConfigError(
                f"normalisation={normalisation!r} is unknown; allowed are {', '.join(map(repr, NORMALISATIONS))}.",
                hint='use normalisation="decoding", the distribution that tokens are drawn from',
            )
        self.dola_config: DoLaConfig | None = None
        if layers != "off":
            settings: dict[str, Any] = {"relative_top": relative_top, "divergence": divergence, "final_norm": final_norm}
            self.dola_config = DoLaConfig(spelled_layers(layers), **settings)
        self._recipe = Recipe(self.dola_config, softmax=NORMALISATIONS[normalisation])
        if isinstance(pretrained, str) and pretrained in EMBEDDED:
            pretrained, kwargs["tokenizer"] = dola.load(pretrained, dtype=kwargs.pop("dtype", "auto"))
            if torch.cuda.is_available():
                pretrained.to(kwargs.get("device") or "cuda")
        super().__init__(pretrained, **kwargs)
        if not self._encoder.has_row(self.tokenizer.pad_token_id):  # HFLM adds one where there is none, and generates with it
            self.tokenizer.pad_token_id = self._encoder.pad_token_id

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation, and whether greedy decoding writes it; as HFLM."""
        places: dict[tuple[int, ...], list[int]] = {}
        for i, (_, context, continuation) in enumerate(requests):
            room = self.max_length + 1 - len(continuation)  # HFLM cuts on the left, too; with `max_length` given, further
            places.setdefault(tuple(context[-max(room, 1) :]), []).append(i)
        continuations = [[requests[i][2] for i in of_context] for of_context in places.values()]
        progress = not disable_tqdm and self.rank == 0
        scores = score(self.model, None, list(places), continuations, {"it": self._recipe}, progress=progress)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for of_context, values, greedy in zip(places.values(), scores.values["it"], scores.greedy["it"], strict=True):
            for i, value, is_greedy in zip(of_context, values, greedy, strict=True):
                found[i] = value, is_greedy
        for (texts, _, _), answer in zip(requests, found, strict=True):
            if texts is not None:  # it is None for rolling likelihoods
                self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **generation_kwargs: Any) -> Tensor:
        """Tokens behind a context [B, T], decoded with DoLa; as HFLM."""
        attached = nullcontext() if self.dola_config is None else dola.attach(self.model, self.dola_config)
        with attached:
            return super()._model_generate(context, max_length, stop, **generation_kwargs)  # type: ignore[no-any-return]


def spelled_layers(given: str | int | Sequence[int]) -> str | Sequence[int]:
    """Layers as --model_args spells them: a bucket, one index, or indices joined by "+"."""
    if isinstance(given, int):
        return [given]
    if isinstance(given, str) and all(part.strip().isdecimal() for part in given.split("+")):
        return [int(part) for part in given.split("+")]
    return given
