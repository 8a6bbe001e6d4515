"""lm-evaluation-harness: the model type "dola", for its command line and for `simple_evaluate`.

    dola lm-eval --model dola --model_args pretrained=meta-llama/Meta-Llama-3-8B,layers=high --tasks truthfulqa_mc1,gsm8k
    lm_eval.simple_evaluate(model=DolaLM("meta-llama/Meta-Llama-3-8B", layers="high"), tasks=["truthfulqa_mc1"])

Log-likelihoods come from `dola.score`, so that shared contexts run once; texts are generated with the attached model. This
replaces HFLM's own code, which takes log_softmax of its forward's output and reads the head at every position.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM  # its package must register the built-in types before ours, or they would be hidden
from torch import Tensor

import dola
from dola.decoding.as_asked import blamed, own_config, refuse, say
from dola.decoding.attach import as_config
from dola.errors import ConfigError, ModelFileError
from dola.integrations.lm_eval_text import CheckedBatches
from dola.loading.checked import load_weights
from dola.loading.embedded import EMBEDDED
from dola.loading.load_errors import in_our_words
from dola.loading.weight_lists import listed
from dola.loading.weights import WeightsReport
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import parse
from dola.methods.registry import config_class, config_of, settings_of, with_settings
from dola.model.anatomy import Anatomy
from dola.model.generation_fields import HARNESS, own_layers, review, shown, switched_off
from dola.scoring.recipe import Recipe
from dola.scoring.score import score

logger = logging.getLogger("dola")

NORMALISATIONS = {"decoding": "masked", "full": "full", "none": "none"}
"""How log-likelihoods are normalized: as in decoding, or as the reference's `post_softmax` on and off (Recipe.softmax)."""


OTHER_LOADERS = ("autogptq", "gptqmodel")
OF_A_FILE = ("peft", "delta", "gguf_file", "quantization_config", "load_in_4bit", "load_in_8bit", "subfolder")
"""Arguments of HFLM that say how to load a file: it ignores them if it is given a model."""


@register_model("dola")
class DolaLM(CheckedBatches, HFLM):  # type: ignore[misc]
    """A Hugging Face model that scores and generates with DoLa.

    Args:
        pretrained: A hub id, a folder, a model object, or one of dola's embedded models.
        layers: See DoLaConfig. In --model_args, indices are joined by "+" ("layers=16+18"); "off" means without DoLa. The
            default is `dola_layers` of the model's generation config, otherwise "high".
        method: Name of a method other than DoLa.
        normalisation: "decoding", "full" or "none": see NORMALISATIONS.
        **kwargs: The other settings of the method, by the names of DoLaConfig's fields; and all arguments of HFLM.

    Raises:
        ConfigError: A value is not allowed.
        LayersError: This model does not have the layers; raised at the first request.
    """

    AUTO_MODEL_CLASS: Any = None

    def __init__(
        self,
        pretrained: Any,
        layers: str | int | Sequence[int] | None = None,
        *,
        normalisation: str = "decoding",
        method: str = DoLaConfig.method,
        **kwargs: Any,
    ) -> None:
        if normalisation not in NORMALISATIONS:
            raise ConfigError(
                f"normalisation={normalisation!r} is not supported. Allowed: {', '.join(map(repr, NORMALISATIONS))}.",
                hint='use normalisation="decoding", the distribution that tokens are sampled from',
            )
        settings = taken_settings(method, kwargs)
        self.dola_config = None if layers == "off" else config_from_arguments(method, layers, settings)
        _check_arguments(pretrained, kwargs)
        if isinstance(pretrained, str) and _is_gguf(pretrained):
            pretrained, kwargs["tokenizer"] = dola.load(pretrained, dtype=kwargs.pop("dtype", "auto"))
            if torch.cuda.is_available():
                pretrained.to(kwargs.get("device") or "cuda")
        super().__init__(pretrained, **kwargs)
        if not self._encoder.has_row(self.tokenizer.pad_token_id):  # HFLM adds one if there is none, and generates with it
            self.tokenizer.pad_token_id = self._encoder.pad_token_id
        if layers is None and method == DoLaConfig.method:
            self.dola_config = self._with_own_layers()
        self._recipe = Recipe(self.dola_config, softmax=NORMALISATIONS[normalisation])

    def use(self, recipe: Recipe) -> None:
        """Score and generate with another recipe from now on."""
        self.dola_config, self._recipe = recipe.dola, recipe

    def _with_own_layers(self) -> MethodConfig | None:
        """The configuration with the layers of the model's generation config, if it names some."""
        own = own_layers(own_config(self.model))
        if own is None or self.dola_config is None:
            return self.dola_config
        logger.warning("layers= was not given: %s of the model's generation config is used.", shown("dola_layers", own))
        return with_settings(self.dola_config, layers=as_config(None, Anatomy.of(self.model)).layers)

    def _get_config(self, pretrained: str, **kwargs: Any) -> None:
        with in_our_words("config.json", pretrained, None, ours=True):
            super()._get_config(pretrained, **kwargs)

    def _create_tokenizer(self, pretrained: Any, tokenizer: Any, **kwargs: Any) -> None:
        source = tokenizer if isinstance(tokenizer, str) else pretrained
        with in_our_words("tokenizer", source if isinstance(source, str) else "the model", None, ours=True):
            super()._create_tokenizer(pretrained, tokenizer, **kwargs)

    def _create_model(
        self, pretrained: str, *args: Any, peft: str | None = None, delta: str | None = None, **kwargs: Any
    ) -> None:
        """Override HFLM's to check weights: load a model, then an adapter or a difference of weights onto it."""
        auto = self.AUTO_MODEL_CLASS
        self.AUTO_MODEL_CLASS = Checked(auto)
        try:
            with in_our_words("adapter", str(peft), None, ours=bool(peft)):
                super()._create_model(pretrained, *args, peft=peft, **kwargs)
        finally:
            self.AUTO_MODEL_CLASS = auto
        revision = kwargs.get("revision", "main")
        if peft:
            result = self._model.load_adapter(peft, self._model.active_adapter, revision=revision)
            lists = {"missing_keys": result.missing_keys, "unexpected_keys": result.unexpected_keys, "mismatched_keys": ()}
            WeightsReport.of(peft, self._model, lists, adapter=True).refuse()
        if delta:
            code = {"revision": revision, "trust_remote_code": kwargs.get("trust_remote_code")}
            _add(self._model, Checked(auto).from_pretrained(delta, dtype=self._model.dtype, **code), delta)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        """Override HFLM's: log-likelihood in nats of each continuation, and whether greedy decoding generates it."""
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
        """Override HFLM's to use DoLa and drop unsupported fields of the generation config: tokens after a context [B, T]."""
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


class Checked:
    """An auto class of transformers whose models have all weights of their files."""

    def __init__(self, auto: Any) -> None:
        self._auto = auto

    def from_pretrained(self, pretrained: str, **kwargs: Any) -> Any:
        """Call the class's own method, with checks.

        Raises:
            ModelFileError: Weights are missing or do not fit, or the model cannot be loaded for another reason.
        """
        return load_weights(self._auto, pretrained, **{**kwargs, "trust_remote_code": bool(kwargs.get("trust_remote_code"))})


def _check_arguments(pretrained: Any, kwargs: dict[str, Any]) -> None:
    """Refuse arguments that HFLM would ignore, and loaders that do not report which weights a file lacks."""
    given = [name for name in (*OTHER_LOADERS, *OF_A_FILE) if kwargs.get(name)]
    if loaders := [name for name in given if name in OTHER_LOADERS]:
        raise ConfigError(
            f"{loaders[0]}= loads a model with a library that does not say which of its weights the file lacks.",
            hint=f"omit {loaders[0]}=: transformers loads such checkpoints by the quantization_config in config.json",
        )
    if kwargs.get("peft") and kwargs.get("delta"):
        raise ConfigError("peft= and delta= cannot be used together.", hint="omit one of them")
    adapter = isinstance(pretrained, str) and Path(pretrained, "adapter_config.json").is_file()
    if adapter and not Path(pretrained, "config.json").is_file():
        raise ConfigError(
            f"pretrained={pretrained!r} is an adapter; lm-eval takes it as peft=, and its base model as pretrained=.",
            hint=f"--model_args pretrained=BASE,peft={pretrained}",
        )
    if given and (not isinstance(pretrained, str) or _is_gguf(pretrained)):
        what = repr(pretrained) if isinstance(pretrained, str) else "a model object"
        raise ConfigError(f"{given[0]}= would be ignored with {what}.", hint="give the folder or hub id of a model, or omit it")


def _is_gguf(name: str) -> bool:
    """Whether a name means a GGUF file, which `dola.load` loads with its tokenizer."""
    return name in EMBEDDED or name.endswith(".gguf")


def _add(model: Any, delta: Any, name: str) -> None:
    """Add a difference of weights to a model, each weight once, even tied ones."""
    ours, theirs = dict(model.named_parameters()), dict(delta.named_parameters())
    wrong = [
        key
        for key in ours.keys() | theirs.keys()
        if key not in ours or key not in theirs or ours[key].shape != theirs[key].shape
    ]
    if wrong:
        raise ModelFileError(
            f"The weights of delta={name!r} do not match the model that they would be added to: {listed(sorted(wrong))}.",
            hint="use the model that the difference was taken from",
        )
    with torch.no_grad():
        for key, parameter in ours.items():
            parameter.add_(theirs[key].to(parameter))


def taken_settings(method: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The settings of a method among the arguments of a model type; removes them from `kwargs`.

    Raises:
        ConfigError: The method is unknown, or does not have a given setting of DoLa.
    """
    dolas = [each.name for each in DoLaConfig.options()]
    names = dolas if method == DoLaConfig.method else settings_of(config_class(method))
    if given := [name for name in dolas if name in kwargs and name not in names]:
        raise ConfigError(f"{given[0]}= is a setting of DoLa; {method} has {', '.join(names)}.", hint=f"omit {given[0]}")
    return {name: kwargs.pop(name) for name in names if name in kwargs}


def config_from_arguments(method: str, layers: str | int | Sequence[int] | None, settings: Mapping[str, Any]) -> MethodConfig:
    """The configuration from arguments of a model type; `layers` None means the method's default."""
    return config_of({"method": method, **({} if layers is None else {"layers": spelled_layers(layers)}), **settings})


def spelled_layers(given: str | int | Sequence[int]) -> Any:
    """Layers in the notation of --model_args: a bucket, one index, or indices joined by "+"."""
    if isinstance(given, int):
        return [given]
    return parse(given)
