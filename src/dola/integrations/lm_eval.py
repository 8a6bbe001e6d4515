"""lm-evaluation-harness: the model type "dola", for its command line and for `simple_evaluate`.

    dola lm-eval --model dola --model_args pretrained=meta-llama/Meta-Llama-3-8B,layers=high --tasks truthfulqa_mc1,gsm8k
    lm_eval.simple_evaluate(model=DolaLM("meta-llama/Meta-Llama-3-8B", layers="high"), tasks=["truthfulqa_mc1"])

Log-likelihoods come from `dola.score`, so that contexts which requests share run once; texts are generated on the attached
model. HFLM takes log_softmax of whatever its forward returns and reads the head at every position; that is replaced.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM  # whose package registers the built-in types: before ours, or they would be hidden
from torch import Tensor

import dola
from dola.anatomy import Anatomy
from dola.attach import as_config
from dola.config import DoLaConfig
from dola.embedded import EMBEDDED
from dola.errors import ConfigError
from dola.generation_call import blamed, own_config, refuse, say
from dola.generation_fields import HARNESS, own_layers, review, shown, switched_off
from dola.generation_file import checked_generation_config
from dola.recipe import Recipe
from dola.score import score

logger = logging.getLogger("dola")

NORMALISATIONS = {"decoding": "masked", "full": "full", "none": "none"}
"""How log-likelihoods are normalised: as decoding does it, or as the reference's `post_softmax` on and off (Recipe.softmax)."""


@register_model("dola")
class DolaLM(HFLM):  # type: ignore[misc]
    """A Hugging Face model that scores and generates with DoLa.

    Args:
        pretrained: A hub id, a folder, a model object, or one of dola's embedded models.
        layers: As in DoLaConfig; in --model_args indices are joined by "+" ("layers=16+18"); "off" is the model itself. Without
            them those of the model's generation config (`dola_layers`), and else "high".
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
        layers: str | int | Sequence[int] | None = None,
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
            self.dola_config = DoLaConfig("high" if layers is None else spelled_layers(layers), **settings)
        if isinstance(pretrained, str) and pretrained in EMBEDDED:
            pretrained, kwargs["tokenizer"] = dola.load(pretrained, dtype=kwargs.pop("dtype", "auto"))
            if torch.cuda.is_available():
                pretrained.to(kwargs.get("device") or "cuda")
        elif isinstance(pretrained, str):
            kwargs.update(checked_generation_config(pretrained, kwargs))
        super().__init__(pretrained, **kwargs)
        if layers is None:
            self.dola_config = self._with_own_layers()
        self._recipe = Recipe(self.dola_config, softmax=NORMALISATIONS[normalisation])

    def _with_own_layers(self) -> DoLaConfig | None:
        """The configuration with the layers of the model's generation config, where that names some."""
        own = own_layers(own_config(self.model))
        if own is None or self.dola_config is None:
            return self.dola_config
        logger.warning("layers= was not given: %s of the model's generation config is used.", shown("dola_layers", own))
        return replace(self.dola_config, layers=as_config(None, Anatomy.of(self.model)).layers)

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
        """Tokens after a context [B, T], decoded with DoLa; as HFLM, without fields of the generation config that do not go."""
        found = review(own_config(self.model))
        refuse(found)
        say(self.model, found, generation_kwargs, kept=HARNESS)
        generation_kwargs = {**switched_off(found, generation_kwargs, kept=HARNESS), **generation_kwargs}
        if "stop_strings" in found.kept:
            generation_kwargs["tokenizer"] = self.tokenizer
        generation_kwargs.pop("max_length", None)
        generate, fixed = super()._model_generate, ("use_cache", "pad_token_id", "streamer")

        def run(**changed: Any) -> Tensor:
            call = {**generation_kwargs, **{name: value for name, value in changed.items() if name not in fixed}}
            with nullcontext() if self.dola_config is None else dola.attach(self.model, self.dola_config):
                return generate(context, max_length, stop, **call)  # type: ignore[no-any-return]

        try:
            return run()
        except Exception as error:
            if (ours := blamed(error, found, run)) is not None:
                raise ours from error
            raise


def spelled_layers(given: str | int | Sequence[int]) -> str | Sequence[int]:
    """Layers as --model_args spells them: a bucket, one index, or indices joined by "+"."""
    if isinstance(given, int):
        return [given]
    if isinstance(given, str) and all(part.strip().isdecimal() for part in given.split("+")):
        return [int(part) for part in given.split("+")]
    return given
