"""DoLa for one call: `dola.generate`, and `install`, which runs code written for transformers 4 without changes.

Both affect single calls. The hooks are on the model while the call runs and act only in its thread: a plain call on the same
model in another thread stays plain, and concurrent calls with different layers do not affect each other.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

from transformers import GenerationConfig, GenerationMixin

from dola.decoding.attach import Session, as_config
from dola.decoding.call import current_generation, is_aside
from dola.decoding.keywords import LAYERS, PREFIX, check_arguments, check_generation_configs, config_from, settings_in
from dola.errors import ConfigError, InputError, ModelError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.names import RECOMMENDED_PENALTY
from dola.methods.registry import with_settings
from dola.model.anatomy import Anatomy
from dola.model.generation_fields import own_layers
from dola.model.wrappers import around

logger = logging.getLogger("dola")


def generate(model: Any, *args: Any, dola_layers: MethodConfig | str | Sequence[int] | None = None, **kwargs: Any) -> Any:
    """Call `model.generate(...)` with DoLa, for this call only.

        out = dola.generate(model, **inputs, dola_layers="high", repetition_penalty=1.2)

    Args:
        model: Any decoder-only Hugging Face model with a language-modeling head; PEFT and torch.compile wrappers work too.
        *args: Any arguments of `generate`.
        **kwargs: Any arguments of `generate`. `dola_method="sled"` selects another method, and `dola_rate=2` one of its
            settings; `dola_layers` then are the layers of that method.
        dola_layers: "high", "low", "all", layer indices (0 is the embedding output), or a DoLaConfig or another method's
            settings. Without it the layers are the `dola_layers` of `generation_config=`, then those of
            `model.generation_config`, then "high". The model's belong to DoLa: another method has its own default instead.

    Returns:
        The result of `model.generate`. `scores` are the contrast after the processors, `logits` the model's own.

    Raises:
        AttachError: DoLa is attached to this model already.
        ConfigError, ModelError, InputError: As for `attach`.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> inputs = tokenizer("The capital of France is", return_tensors="pt")
        >>> out = dola.generate(model, **inputs, dola_layers="high", repetition_penalty=1.2, max_new_tokens=2)
        >>> out.shape  # [batch, prompt and new tokens], int64
        torch.Size([1, 7])
    """
    anatomy = Anatomy.of(model)
    check_arguments(anatomy.lm, args, kwargs)
    config = _config(anatomy, dola_layers, settings_in(kwargs), _given(args, kwargs), None)
    return _contrasted(model, anatomy, None, args, kwargs, config)


def install(config: MethodConfig | None = None) -> None:
    """Make `model.generate(..., dola_layers=...)` work on every model, as it did in transformers 4.

    `dola_layers` is honored as a keyword, in `generation_config=`, and in `model.generation_config`. Other `dola_...` keywords
    mean what they mean for `dola.generate`: `dola_method="sled"`. A call without any stays plain. Continuous batching
    refuses them: attach for that. Installing twice with the same config does nothing.

    Args:
        config: All settings except `layers`. `DoLaConfig.reference()` gives the tokens of transformers 4.55.4. The default
            is the method of the paper, whose tokens differ from version 4's; a warning says so once.

    Raises:
        ConfigError: `config` is not the settings of a method.

    Examples:
        >>> model, tokenizer = dola.load()
        >>> inputs = tokenizer("The capital of France is", return_tensors="pt")
        >>> dola.install(dola.DoLaConfig.reference())
        >>> out = model.generate(**inputs, dola_layers=[24, 28], repetition_penalty=1.2, max_new_tokens=2)
        >>> dola.uninstall()
    """
    global _installed
    settings = DoLaConfig() if config is None else config
    if not isinstance(settings, MethodConfig):
        raise ConfigError(
            f"install(config={config!r}) is not a DoLaConfig.",
            hint="write dola.install() or dola.install(DoLaConfig.reference())",
        )
    if isinstance(settings, DoLaConfig) and settings != DoLaConfig.reference(settings.layers):
        _once(
            "dola.install: tokens follow the paper's method and differ from transformers 4's; for version 4's exact tokens, "
            "call dola.install(DoLaConfig.reference())."
        )
    if _installed is None:
        try:
            _put(GenerationMixin, "generate", _generate_with_dola_layers)
            _put(GenerationConfig, "get_generation_mode", _mode_without_dola)
            for name in ("init_continuous_batching", "generate_batch"):
                _put(next(kind for kind in GenerationMixin.__mro__ if name in vars(kind)), name, _batching_without_dola)
        except BaseException:
            _put_back()
            raise
    _installed = settings


def uninstall() -> None:
    """Undo `install`. Without it, do nothing.

    Examples:
        >>> dola.install(dola.DoLaConfig.reference())
        >>> dola.uninstall()
        >>> dola.uninstall()  # does nothing
    """
    global _installed
    _put_back()
    _installed = None


_installed: MethodConfig | None = None
_originals: dict[tuple[Any, str], Any] = {}
"""The methods of transformers that `install` replaces, by class and name."""


def _put(kind: Any, name: str, wrapper: Callable[[Any], Any]) -> None:
    _originals[kind, name] = getattr(kind, name)
    setattr(kind, name, wrapper(_originals[kind, name]))


def _put_back() -> None:
    while _originals:
        (kind, name), original = next(reversed(_originals.items()))
        setattr(kind, name, original)
        del _originals[kind, name]


def _contrasted(
    model: Any, anatomy: Anatomy, original: Any, args: tuple[Any, ...], kwargs: dict[str, Any], config: MethodConfig
) -> Any:
    if kwargs.get("cache_implementation") == "paged":
        raise InputError(
            "cache_implementation='paged' decodes in a separate thread, where DoLa for a single call has no effect.",
            hint="attach instead: with dola.attach(model, ...): model.generate(...)",
        )
    if original is None:
        original = _generate_of(model)
    if isinstance(config, DoLaConfig):
        _warn_of_low_penalty(anatomy.lm, kwargs)
    with Session(anatomy, config, around(model, anatomy.lm)) as session:
        return session.generate(original, *args, **kwargs)


def _config(anatomy: Anatomy, layers: Any, settings: dict[str, Any], call: Any, base: MethodConfig | None) -> MethodConfig:
    """What the `dola_...` arguments of a call mean; `call` is its generation config, `base` what they change."""
    own = getattr(anatomy.lm, "generation_config", None)
    check_generation_configs(call, own)
    if settings:
        return config_from(layers, settings, call=call, model=own, base=base)
    config = as_config(layers, anatomy, generation_config=call)
    return config if base is None or isinstance(layers, MethodConfig) else with_settings(base, layers=config.layers)


def _given(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The call's generation config, or None."""
    return kwargs.get("generation_config", args[1] if len(args) > 1 else None)


def _generate_of(model: Any) -> Any:
    if not hasattr(model, "generate"):
        raise ModelError(
            f"{type(model).__name__} has no generate().",
            hint="attach to it and decode from its logits: with dola.attach(model, ...): model(**inputs).logits",
        )
    return model.generate


def _generate_with_dola_layers(original: Any) -> Any:
    @functools.wraps(original)
    def generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(kwargs.get("custom_generate"), str):  # the caller's own decoding code, which may take dola_layers itself
            return original(self, *args, **kwargs)
        layers, settings, call = kwargs.pop("dola_layers", None), settings_in(kwargs), _given(args, kwargs)
        if current_generation(self) is not None and not is_aside(self):
            return original(self, *args, **kwargs)
        if layers is None and not settings and own_layers(call, self.generation_config) is None:
            check_generation_configs(call, self.generation_config)
            return original(self, *args, **kwargs)
        anatomy = Anatomy.of(self)
        config = _config(anatomy, layers, settings, call, _installed or DoLaConfig())
        return _contrasted(self, anatomy, functools.partial(original, self), args, kwargs, config)

    return generate


def _mode_without_dola(original: Any) -> Any:
    """Hide `dola_layers` in a GenerationConfig, which transformers 5 would take for a mode that it no longer has."""

    @functools.wraps(original)
    def get_generation_mode(self: Any, *args: Any, **kwargs: Any) -> Any:
        layers, self.dola_layers = self.dola_layers, None
        try:
            return original(self, *args, **kwargs)
        finally:
            self.dola_layers = layers

    return get_generation_mode


def _batching_without_dola(original: Any) -> Any:
    """Refuse `dola_layers` in continuous batching: its thread belongs to no call, and would decode plainly without a word."""

    @functools.wraps(original)
    def batching(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = kwargs.get("generation_config", next((each for each in args if isinstance(each, GenerationConfig)), None))
        asked = {LAYERS: own_layers(call, None if hasattr(self, "dola") else self.generation_config), **kwargs}
        for name, value in asked.items():
            if name.startswith(PREFIX) and value is not None:
                raise InputError(
                    f"{name}={value!r} has no effect in continuous batching, which decodes in a thread of its own.",
                    hint="omit it and attach: with dola.attach(model, ...): model.generate_batch(...)",
                )
        return original(self, *args, **kwargs)

    return batching


def _warn_of_low_penalty(lm: Any, kwargs: dict[str, Any]) -> None:
    sources = (kwargs.get("generation_config"), getattr(lm, "generation_config", None))
    penalties = (kwargs.get("repetition_penalty"), *(getattr(source, "repetition_penalty", None) for source in sources))
    penalty = next((value for value in penalties if value is not None), 1.0)
    if penalty < RECOMMENDED_PENALTY:
        _once(
            f"repetition_penalty={penalty} with DoLa: the contrast tends to loop in long texts; "
            f"{RECOMMENDED_PENALTY} is recommended."
        )


_said: set[str] = set()


def _once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        logger.warning(message)
