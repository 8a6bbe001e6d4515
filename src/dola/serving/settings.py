"""The settings of an engine and the options of a request, as users write them, with checks and error messages.

    additional_config={"dola": {"layers": "high", "capture": "all", "default": "off", "divergence": "jsd"}}
    extra_args={"dola_layers": [26, 28], "dola_divergence": "jsd"}

Layer 0 is the embedding output. Every error is a ConfigError, which is a ValueError: vLLM's server returns HTTP 400 with its
message.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dola.errors import ConfigError
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import candidate_layers, parse
from dola.methods.registry import config_class, config_of, required_settings, settings_of, with_settings

ENGINE = ("capture", "default")
"""Settings of an engine besides those of its method."""


def settings_of_method(name: object = DoLaConfig.method) -> tuple[str, ...]:
    """Settings of a method that engines and requests accept. `lazy` follows from the request.

    Raises:
        ConfigError: The method does not exist.
    """
    return tuple(field for field in settings_of(config_class(name)) if field != "lazy")


def options(method: object = DoLaConfig.method) -> tuple[str, ...]:
    """The names of a request's options: with a prefix, and with flat values, as vLLM's types require."""
    names = tuple(name for name in settings_of_method(method) if name != "lens")  # the server reads one file, when it starts
    return tuple(f"dola_{name}" for name in (names if method == DoLaConfig.method else ("method", *names)))


@dataclass(frozen=True)
class Served:
    """The settings of an engine.

    Attributes:
        config: The default of requests, with layers resolved to indices.
        captured: The layers that every forward pass keeps, from which requests can choose.
        default_on: Whether requests without options use `config`, or plain decoding.
        num_layers: N, the number of blocks.
        tied: Whether the head shares the input embedding's weights.
        speculates: Whether the engine drafts tokens and checks them against the scores.
    """

    config: MethodConfig
    captured: tuple[int, ...]
    default_on: bool
    num_layers: int
    tied: bool
    speculates: bool = False

    @classmethod
    def of(cls, given: Any, *, num_layers: int, tied: bool) -> Served:
        """The settings in `additional_config["dola"]`, resolved for a model.

        Raises:
            ConfigError: Not an object, an unknown setting, a value that is not allowed, or layers that the model lacks.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f'"dola" in additional_config is {given!r}, not an object of settings.', hint=ENGINE_HINT)
        name = given.get("method", DoLaConfig.method)
        allowed = (*settings_of_method(name), *ENGINE)
        if unknown := [each for each in given if each not in (*allowed, "method")]:
            raise ConfigError(
                f'{unknown[0]!r} in additional_config["dola"] is not a setting. Settings: {", ".join(allowed)}.',
                hint=ENGINE_HINT,
            )
        default = given.get("default", "on")
        if default not in ("on", "off"):
            raise ConfigError(f'"default": {default!r} is not supported. Allowed: "on" and "off".', hint=ENGINE_HINT)
        settings = {key: value for key, value in given.items() if key not in ENGINE}
        if "layers" in given:
            settings["layers"] = candidate_layers(_layers(given["layers"]), num_layers, tied=tied)
        config = _not_drawn(config_of(settings))
        layers = candidate_layers(config.layers, num_layers, tied=tied)
        captured = candidate_layers(_layers(given.get("capture", layers)), num_layers, tied=tied)
        kept = tuple(sorted({*layers, *captured}))
        _check_lens(config, kept, num_layers)
        return cls(with_settings(config, layers=layers), kept, default == "on", num_layers, tied)

    def in_force(self) -> str:
        """One line for the engine's log: method, layers, lens, and what requests without options get."""
        layers = ", ".join(map(str, self.config.layers)) or "none"
        settings = {
            name: value for name, value in self.config.as_dict().items() if name not in ("layers", "lens", "lazy", "method")
        }
        return (
            f"DoLa is {'on' if self.default_on else 'off'} for requests without options. Method {self.config.method}, layers "
            f"{layers}; captured {', '.join(map(str, self.captured))} of {self.num_layers}; lens {self.config.lens or 'none'}; "
            f"{', '.join(f'{name}={value!r}' for name, value in settings.items())}."
        )

    def of_request(self, extra_args: Mapping[str, Any] | None) -> MethodConfig | None:
        """The configuration of a request with these extra arguments; None means without DoLa.

        Raises:
            ConfigError: See `of`; or the options contradict each other, or this engine does not capture the layers.
        """
        given = request_options(extra_args, self.config.method)
        names_method = "method" in given
        method = given.pop("method", self.config.method)
        known = (*options(method), "dola_method")
        if misspelt := [name for name in extra_args or {} if name not in known and seems_ours(name, method)]:
            raise _no_option(misspelt[0], method)
        config = self.config if method == self.config.method else self._other(method)
        layers = given.pop("layers", None)
        if layers is None and names_method:
            layers = "on"
        if layers is None and not self.default_on and given:
            raise ConfigError(
                f"dola_{next(iter(given))} was given, but DoLa is off for requests that do not name layers.",
                hint='also give dola_layers: "on" means the layers that the server was started with',
            )
        if layers is None:
            layers = "on" if self.default_on else "off"
        if layers == "off":
            if given:
                raise ConfigError(
                    f'dola_{next(iter(given))} was given with dola_layers="off", which decodes without DoLa.',
                    hint="omit one of the two",
                )
            return None
        asked = config.layers if layers == "on" else _layers(layers)
        chosen = candidate_layers(asked, self.num_layers, tied=self.tied)
        if missing := [layer for layer in chosen if layer not in self.captured]:
            raise ConfigError(
                f"dola_layers={layers!r} needs layer {missing[0]}, which this server does not capture; it captures "
                f"{', '.join(map(str, self.captured))}.",
                hint='choose among these, or start the server with "capture": "all" in its dola settings',
            )
        return _not_drawn(with_settings(config, layers=chosen, **given))

    def _other(self, method: object) -> MethodConfig:
        """The settings of a method other than the engine's, with the engine's layers if it has none of its own."""
        required = required_settings(config_class(method))
        layers = {"layers": self.config.layers} if "layers" in required else {}
        return config_of({"method": method, **layers, **MethodConfig.lens_settings(self.config.lens)})


def like_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values whose names begin like options of DoLa, misspelled ones included."""
    return {name: value for name, value in given.items() if str(name).lower().startswith("dola")}


def request_options(extra_args: Mapping[str, Any] | None, method: object = DoLaConfig.method) -> dict[str, Any]:
    """The options of a request that belong to DoLa, without their prefix.

    Raises:
        ConfigError: A name begins like one of DoLa's options but is not one.
    """
    given = like_options(extra_args or {})
    method = given.get("dola_method", method)
    if unknown := [name for name in given if name not in (*options(method), "dola_method")]:
        raise _no_option(unknown[0], method)
    found = {name.removeprefix("dola_"): value for name, value in given.items()}
    switches = {each.name for each in config_class(method).settings() if each.kind is bool}
    return {  # JSON through a schema without booleans has numbers instead
        name: bool(value) if name in switches and value in (0, 1) else value for name, value in found.items()
    }


def _check_lens(config: MethodConfig, captured: tuple[int, ...], num_layers: int) -> None:
    """Refuse a lens that cannot be read, or that lacks a layer which requests may choose.

    Raises:
        LensError: The lens cannot be read, or lacks a layer.
    """
    if config.lens is None:
        return
    from dola.lens.lens import Lens

    lens = Lens.load(config.lens)
    lens.check_layers(captured)
    if lens.facts.get("num_layers") not in (None, num_layers):
        raise ConfigError(
            f"The lens belongs to {lens.model} ({lens.facts['num_layers']} layers); this model has {num_layers}.",
            hint="fit one for this model: dola lens fit MODEL --output FILE",
        )


def _not_drawn(config: MethodConfig) -> MethodConfig:
    """Refuse settings that draw at random at each position, because an engine does not report its rows' positions.

    Raises:
        ConfigError: The settings draw.
    """
    if config.draws:
        raise ConfigError(
            f"The method {config.method!r} draws at each position whether it acts, and an engine does not report the "
            "positions of its rows.",
            hint='"probability": 1',
        )
    return config


def seems_ours(name: object, method: object = DoLaConfig.method) -> bool:
    """Whether a name is meant for DoLa: one of its options, misspelled or not, with or without the prefix."""
    lowered, names = str(name).lower(), options(method)
    return (
        lowered.startswith("dola")
        or lowered in settings_of_method(method)
        or bool(get_close_matches(lowered, names, n=1, cutoff=0.8))
    )


def _no_option(name: object, method: object) -> ConfigError:
    what = "DoLa" if method == DoLaConfig.method else f"the method {method!r}"
    return ConfigError(
        f"{name!r} is not an option of {what}. Allowed: {', '.join(options(method))}.", hint='"dola_layers": "high"'
    )


def _layers(given: Any) -> str | Iterable[object]:
    """Layers in one of their notations: a name, indices, or indices as text."""
    layers = parse(given)
    if isinstance(layers, Iterable) and not isinstance(layers, Mapping):
        return layers
    raise ConfigError(
        f"layers={given!r} is neither a bucket (low, high, all) nor a list of layer indices.",
        hint='"high", or for instance [24, 28]',
    )


ENGINE_HINT = """additional_config={"dola": {"layers": "high", "capture": "all", "default": "on"}}"""
