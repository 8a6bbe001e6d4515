"""What an engine serves, and what a request asks of it: both as users write them, checked, in words.

    additional_config={"dola": {"layers": "high", "capture": "all", "default": "off", "relative_top": 0.1}}
    extra_args={"dola_layers": [26, 28], "dola_relative_top": 0.05}

Layers are numbered as everywhere: 0 is the embedding output. Every error is a ConfigError, which is a ValueError: vLLM's server
answers a request that raises one with HTTP 400 and its words.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from dola.errors import ConfigError
from dola.methods.config import DoLaConfig
from dola.methods.layers import candidate_layers, parse

METHOD = ("layers", "relative_top", "divergence", "final_norm")
"""Settings of the method, of an engine as of a request, where they have the prefix `dola_`."""

ENGINE = (*METHOD, "capture", "default")

OPTIONS = tuple(f"dola_{name}" for name in METHOD)
"""Options of a request."""


@dataclass(frozen=True)
class Served:
    """What an engine serves.

    Attributes:
        config: The default of requests, its layers resolved to indices.
        captured: The layers that every forward keeps: those that requests can choose from.
        default_on: Whether requests that say nothing are decoded with `config`, or plainly.
        num_layers: N, the number of blocks.
        tied: Whether the head shares the input embedding's weights.
    """

    config: DoLaConfig
    captured: tuple[int, ...]
    default_on: bool
    num_layers: int
    tied: bool

    @classmethod
    def of(cls, given: Any, *, num_layers: int, tied: bool) -> Served:
        """What `additional_config["dola"]` means for a model.

        Raises:
            ConfigError: No object, a name that is no setting, a value that is not allowed, layers that the model does not have.
        """
        if not isinstance(given, Mapping):
            raise ConfigError(f'"dola" in additional_config is {given!r}, which is no object of settings.', hint=ENGINE_HINT)
        if unknown := [name for name in given if name not in ENGINE]:
            raise ConfigError(
                f'{unknown[0]!r} in additional_config["dola"] is no setting; there are {", ".join(ENGINE)}.', hint=ENGINE_HINT
            )
        default = given.get("default", "on")
        if default not in ("on", "off"):
            raise ConfigError(f'"default": {default!r} is unknown; allowed are "on" and "off".', hint=ENGINE_HINT)
        method = {name: given[name] for name in METHOD if name != "layers" and name in given}
        layers = candidate_layers(_layers(given.get("layers", "high")), num_layers, tied=tied)
        captured = candidate_layers(_layers(given.get("capture", layers)), num_layers, tied=tied)
        return cls(DoLaConfig(layers, **method), tuple(sorted({*layers, *captured})), default == "on", num_layers, tied)

    def of_request(self, extra_args: Mapping[str, Any] | None) -> DoLaConfig | None:
        """How a request with these extra arguments is decoded: None is plainly.

        Raises:
            ConfigError: As `of`; options that mean nothing together; layers that this engine does not capture.
        """
        given = request_options(extra_args)
        if misspelt := [name for name in extra_args or {} if name not in OPTIONS and seems_ours(name)]:
            raise _no_option(misspelt[0])
        layers = given.pop("layers", None)
        if layers is None and not self.default_on and given:
            raise ConfigError(
                f"dola_{next(iter(given))} was given, and DoLa is off for requests that name no layers.",
                hint='give dola_layers too: "on" means the layers that the server was started with',
            )
        if layers is None:
            layers = "on" if self.default_on else "off"
        if layers == "off":
            if given:
                raise ConfigError(
                    f'dola_{next(iter(given))} was given with dola_layers="off", which decodes without DoLa.',
                    hint="leave one of the two out",
                )
            return None
        chosen = self.config.layers if layers == "on" else candidate_layers(_layers(layers), self.num_layers, tied=self.tied)
        if missing := [layer for layer in chosen if layer not in self.captured]:
            raise ConfigError(
                f"dola_layers={layers!r} needs layer {missing[0]}, which this server does not capture; it captures "
                f"{', '.join(map(str, self.captured))}.",
                hint='choose among these, or start the server with "capture": "all" in its dola settings',
            )
        return dataclasses.replace(self.config, layers=chosen, **given)


def request_options(extra_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """The options of a request that are ours, without their prefix.

    Raises:
        ConfigError: A name that begins like one of ours, and is none.
    """
    given = {name: value for name, value in (extra_args or {}).items() if str(name).lower().startswith("dola")}
    if unknown := [name for name in given if name not in OPTIONS]:
        raise _no_option(unknown[0])
    options = {name.removeprefix("dola_"): value for name, value in given.items()}
    if options.get("final_norm") in (0, 1):  # JSON through a schema without booleans
        options["final_norm"] = bool(options["final_norm"])
    return options


def seems_ours(name: object) -> bool:
    """Whether a name is meant for DoLa: one of its options, misspelt or not, with the prefix or without."""
    lowered = str(name).lower()
    return lowered.startswith("dola") or lowered in METHOD or bool(get_close_matches(lowered, OPTIONS, n=1, cutoff=0.8))


def _no_option(name: object) -> ConfigError:
    return ConfigError(f"{name!r} is not an option of DoLa; allowed are {', '.join(OPTIONS)}.", hint='"dola_layers": "high"')


def _layers(given: Any) -> str | Iterable[object]:
    """Layers as somebody wrote them: a name, indices, or indices as text."""
    layers = parse(given)
    if isinstance(layers, Iterable) and not isinstance(layers, Mapping):
        return layers
    raise ConfigError(
        f"layers={given!r} is neither a bucket (low, high, all) nor a list of layer indices.",
        hint='"high", or for instance [24, 28]',
    )


ENGINE_HINT = """additional_config={"dola": {"layers": "high", "capture": "all", "default": "on"}}"""
