"""The `dola_...` arguments of a `generate` call, and the configuration that they mean.

`dola.generate` and `install` read them here. `dola_layers` names layers, `dola_method` a method, and any other a setting of it.
"""

from __future__ import annotations

import inspect
from typing import Any

from dola.errors import ConfigError, InputError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.registry import METHODS, config_of, settings_of
from dola.model.generation_fields import own_layers
from dola.text.chat import short

PREFIX, LAYERS = "dola_", "dola_layers"


def settings_in(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the settings beside `dola_layers` out of a call's arguments, without their prefix: "method", and those of one."""
    names = [name for name in kwargs if name.startswith(PREFIX) and name != LAYERS]
    return {name.removeprefix(PREFIX): kwargs.pop(name) for name in names}


def check_arguments(lm: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse a text in place of tokens, and settings without their prefix. transformers would say less about them.

    Raises:
        InputError: A call has one.
    """
    for given in (*args[:1], *(kwargs[name] for name in ("inputs", "input_ids") if name in kwargs)):
        if isinstance(given, str) or (isinstance(given, (list, tuple)) and given and isinstance(given[0], str)):
            raise InputError(
                f"generate was given a text, {short(str(given))}; expected token ids.",
                hint='tokenize it: dola.generate(model, **tokenizer("...", return_tensors="pt"))',
            )
    own = {"layers", "method", *(name for kind in METHODS.values() for name in settings_of(kind))}
    for name in own.intersection(kwargs).difference(inspect.signature(lm.forward).parameters):
        raise InputError(f"{name}={kwargs[name]!r} is not an argument of generate.", hint=f"{PREFIX}{name}={kwargs[name]!r}")


def check_generation_configs(*configs: Any) -> None:
    """Refuse generation configs that name a method or its settings: transformers keeps any name, and nobody would read these.

    Raises:
        ConfigError: One does.
    """
    for config in configs:
        for name, value in getattr(config, "__dict__", {}).items():
            if name.startswith(PREFIX) and name != LAYERS and value is not None:
                raise ConfigError(
                    f"{name}={value!r} of a generation config has no effect; only {LAYERS} does there.",
                    hint=f"give it to the call: dola.generate(model, **inputs, {name}={value!r})",
                )


def config_from(layers: Any, settings: dict[str, Any], *, call: Any, model: Any, base: MethodConfig | None) -> MethodConfig:
    """The configuration that `dola_layers` and the other `dola_...` arguments of a call mean.

    Without layers they are those of the call's generation config; then, for DoLa, of the model's; then the method's own.

    Args:
        layers: `dola_layers`, or None.
        settings: The others, as `settings_in` gives them.
        call: The call's generation config, or None.
        model: The model's, or None.
        base: What `settings` change, if they are of its method.

    Raises:
        ConfigError: A whole configuration with settings beside it, or as `config_of`.
    """
    if isinstance(layers, MethodConfig):
        raise ConfigError(
            f"dola_{next(iter(settings))} was given with dola_layers={layers!r}, which already contains all settings.",
            hint="put it into the configuration, or give dola_layers only the layers",
        )
    usual = DoLaConfig.method if base is None else base.method
    method = settings.get("method", usual)
    if layers is None:
        layers = own_layers(call, model if method == DoLaConfig.method else None)
    kept = base.as_dict() if base is not None and method == usual and "preset" not in settings else {"method": method}
    return config_of({**kept, **settings, **({} if layers is None else {"layers": layers})}, where="generate")
