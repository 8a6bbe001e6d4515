"""The settings that tuning chooses from: layers, readouts, strengths and thresholds of DoLa, and other methods; and off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dola.errors import ConfigError
from dola.evidence.rows import name_of
from dola.evidence.ways import static_layers, static_name
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.names import DIVERGENCES
from dola.methods.registry import config_class, config_of, required_settings, settings_of
from dola.model.anatomy import Anatomy

OFF = "off"
STRENGTHS = (0.25, 0.5)
"""The strengths that multiple-choice tasks try beside 1."""

Candidates = dict[str, MethodConfig | None]
"""Settings by name, None for off."""


@dataclass(frozen=True)
class Space:
    """What is tried beside layers.

    Attributes:
        methods: Names of methods.
        strengths: DoLa's strengths beside 1. None means `STRENGTHS` in multiple-choice tasks, and none in tasks that generate,
            where each candidate is a run of its own.
        thresholds: DoLa's plausibility thresholds; empty for one that all candidates share.
        lens: A lens. Each way to read layers is then tried with it too.
    """

    methods: Sequence[str] = ("dola",)
    strengths: Sequence[float] | None = None
    thresholds: Sequence[float] = ()
    lens: str | None = None

    def __post_init__(self) -> None:
        if not self.methods:
            raise ConfigError("No method is to be tried.", hint='methods=("dola",)')
        for name in self.methods:
            config_class(name)

    @property
    def others(self) -> list[str]:
        """The methods other than DoLa."""
        return [name for name in dict.fromkeys(self.methods) if name != DoLaConfig.method]

    def thresholded(self, fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The settings that all candidates share, once for each threshold."""
        return [{**fixed, "relative_top": each} for each in dict.fromkeys(self.thresholds)] or [dict(fixed)]


def check_space(methods: Sequence[str], strengths: Sequence[float], thresholds: Sequence[float]) -> None:
    """Raise ConfigError for a method that does not exist, or a value that DoLa does not allow."""
    Space(methods)
    for strength in strengths:
        DoLaConfig(strength=strength)
    for threshold in thresholds:
        DoLaConfig(relative_top=threshold)


def grid(strengths: Sequence[float] = STRENGTHS, lens: str | None = None) -> list[dict[str, Any]]:
    """The settings that multiple-choice tasks try with all layers."""
    weaker = [each for each in dict.fromkeys(strengths) if each != 1]
    shaped: list[dict[str, Any]] = [
        *({"strength": each} for each in weaker),
        *({"strength": each, "scores": "distribution"} for each in (*weaker, 1.0)),
    ]
    readouts = [{"divergence": each, "final_norm": normed} for each in DIVERGENCES for normed in (True, False)]
    read = [] if lens is None else [{**each, **MethodConfig.lens_settings(lens)} for each in ({}, *shaped)]
    return [*readouts, *shaped, *read]


def choice_candidates(model: Any, space: Space | None = None, **fixed: Any) -> Candidates:
    """Off; low, high, and each single layer of both, each with the settings of `grid` that differ; and other methods.

    Args:
        model: The model.
        space: What is tried beside layers.
        **fixed: Settings of all DoLa candidates.
    """
    space = space or Space()
    anatomy = Anatomy.of(model)
    found: Candidates = {OFF: None}
    static = [[layer] for layer in static_layers(anatomy.num_layers, tied=anatomy.tied)]
    tried: list[str | Sequence[int]] = ["low", "high", *static] if DoLaConfig.method in space.methods else []
    for layers in tried:
        for shared in space.thresholded(fixed):
            for settings in grid(STRENGTHS if space.strengths is None else space.strengths, space.lens):
                config = DoLaConfig(layers, **shared, **settings)
                # Any divergence chooses a single layer; with the reference's, the bare head also skips a logit transform.
                another = config.divergence == "jsd" or (config.raw_head and anatomy.logit_transform is not None)
                if isinstance(layers, str) or another:
                    found[_name(config, space)] = config
    return found | _of_methods(space)


def generation_candidates(static: Sequence[int], space: Space | None = None, **fixed: Any) -> Candidates:
    """Off, low, high, and these single layers, with what `space` asks for; for `fixed` see `choice_candidates`."""
    space = space or Space()
    tried: list[str | Sequence[int]] = ["low", "high", *([layer] for layer in static)]
    strengths: list[dict[str, Any]] = [{"strength": each} for each in dict.fromkeys(space.strengths or ()) if each != 1]
    lenses = [{}, *([MethodConfig.lens_settings(space.lens)] if space.lens is not None else [])]
    configs = [
        DoLaConfig(layers, **shared, **settings, **lens)
        for layers in (tried if DoLaConfig.method in space.methods else [])
        for shared in space.thresholded(fixed)
        for settings in ({}, *strengths)
        for lens in lenses
    ]
    return {OFF: None, **{_name(config, space): config for config in configs}, **_of_methods(space)}


def _of_methods(space: Space) -> Candidates:
    """The other methods with their defaults and with their authors' settings for tasks, each without and with the lens."""
    found: Candidates = {}
    for name in space.others:
        kind = config_class(name)
        layers = {"layers": "high"} if "layers" in required_settings(kind) else {}
        lenses: list[dict[str, Any]] = [{}]
        if space.lens is not None and "lens" in settings_of(kind):
            lenses.append(MethodConfig.lens_settings(space.lens))
        for settings in ({}, *kind.presets.values()):
            for lens in lenses:
                config = config_of({"method": name, **layers, **settings, **lens})
                found[name_of(config)] = config
    return found


def _name(config: DoLaConfig, space: Space) -> str:
    """A candidate's name: its layers and unusual settings, without those that all candidates share."""
    layers = config.layers if isinstance(config.layers, str) else static_name(config.layers[0])
    varied = {"relative_top"} if len(set(space.thresholds)) > 1 else set()
    tried = [each for each in DoLaConfig.options() if not each.facts.by_task or each.name in varied]
    given = [(each, getattr(config, each.name)) for each in tried]
    said = [(each, Path(value).name if each.name == "lens" and value else value) for each, value in given]
    return ", ".join([layers, *(each.words(value) for each, value in said if value != each.default)])


def to_decode_with(config: MethodConfig, asked: Sequence[str]) -> MethodConfig:
    """The chosen configuration, with the usual values of settings that only the scoring took from the task."""
    if not isinstance(config, DoLaConfig):
        return config
    usual = {each.name: each.default for each in DoLaConfig.options() if each.facts.by_task and each.name not in asked}
    return replace(config, **usual)


def settings_for_file(config: MethodConfig | None, asked: Sequence[str], penalty: float | None) -> dict[str, Any]:
    """The settings by the names of the command's options, with the penalty of the judged texts, if any."""
    judged = {} if penalty is None else {"repetition-penalty": penalty}
    if config is None:
        return {"layers": OFF, **judged}
    kind = type(config)
    options = {each.name for each in DoLaConfig.options()}  # of the command: other settings are given by --set
    names = [each.name for each in kind.options() if not each.facts.by_task or each.name in asked]
    values = {name: getattr(config, name) for name in ("layers", *names)}
    method = {} if kind is DoLaConfig else {"method": config.method}
    own = [f"{name}={_as_typed(value)}" for name, value in values.items() if name not in options and name != "layers"]
    shared = {name.replace("_", "-"): value for name, value in values.items() if name in options or name == "layers"}
    kept = {name: value for name, value in shared.items() if value is not None}
    return {**method, **kept, **({"set": own} if own else {}), **judged}


def _as_typed(value: Any) -> str:
    return {True: "true", False: "false", None: "null"}[value] if isinstance(value, bool) or value is None else str(value)
