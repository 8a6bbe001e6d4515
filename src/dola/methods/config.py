"""Settings of methods: frozen dataclasses that validate themselves, shared by every interface of the package."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dola.errors import ConfigError
from dola.files.settings_file import read_object
from dola.methods.facts import Cost, Facts, Setting, on_two_cores, read_settings, setting
from dola.methods.layers import check_indices, is_named, parse
from dola.methods.names import DIVERGENCE_ALIASES, DIVERGENCES, SCORES

if TYPE_CHECKING:
    from dola.methods.method import Method

Config = TypeVar("Config", bound="MethodConfig")

COMMON: Mapping[str, Facts] = {
    "layers": Facts(hidden=True),
    "final_norm": Facts(
        help="Whether earlier layers pass the final norm.",
        info="Earlier layers pass it before the head, as the last one does.",
        label="Final norm",
    ),
    "lazy": Facts(hidden=True),
    "lens": Facts(
        help="Read earlier layers through a lens in place of the final norm: a file of `dola lens fit`, or a hub id.",
        info="A lens file, or a hub id with or without @revision.",
        label="Lens",
        hint='lens="model.lens.safetensors"',
    ),
}
"""Descriptions of the fields that all methods share. `layers` is hidden because every interface has its own input for it,
`lazy` because it follows from what the call returns."""


ReadAs = tuple[bool, bool, str | None]
"""Whether candidates pass the final norm, whether they skip the model's logit transform, and their lens."""


class MethodConfig:
    """The settings of a method. Each method derives a frozen dataclass from it, whose fields become options everywhere.

    A subclass must define `layers`; it may omit the other fields and keep their defaults. Field values must fit into JSON:
    text, numbers, booleans, and lists of them. `__post_init__` calls `check_common`, then checks whatever the fields'
    `setting(...)` does not cover.

    Attributes:
        method: The method's name in `registry.METHODS`.
        title: The method's name for people; by default `method`.
        summary: What it does, in one line that starts with a verb: "moves ...".
        costs: What it costs, if that was measured. The command and the docs show these figures from here.
        presets: The settings that the method's authors use, by task name.
        chooses: Whether the scores are the unchanged logits of one layer. Evaluations then use a random layer as a control.
        layers: The candidate layers, see `layers.candidate_layers`.
        final_norm: Whether candidates pass the model's final norm before the head.
        lazy: Whether a call that returns only tokens may skip rows that no layer can change.
        lens: A lens that replaces the final norm when candidates are read: a file from `dola lens fit`, or a hub id with or
            without "@revision". A path or a loaded `Lens` is accepted too; the field stores its name. See docs/lens.md.
    """

    method: ClassVar[str]
    title: ClassVar[str] = ""
    summary: ClassVar[str] = "adds no description of itself"
    costs: ClassVar[tuple[Cost, ...]] = ()
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    chooses: ClassVar[bool] = False
    layers: str | Sequence[int]
    final_norm: bool = True
    lazy: bool = True
    lens: str | None = None

    @property
    def raw_head(self) -> bool:
        """Whether candidates skip the model's soft-cap or logit scale as well."""
        return False

    @property
    def read_as(self) -> ReadAs:
        """How candidates are read out. Configurations with the same value share the readout of a layer."""
        return self.final_norm, self.raw_head, self.lens

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, ready for JSON. `config_of` turns them back into the same configuration."""
        return {"method": self.method, **asdict(self)}  # type: ignore[call-overload]  # each is a dataclass

    def build(self) -> Method:
        """The method with these settings. Subclasses import it here, so that settings do not need torch."""
        raise NotImplementedError(f"{type(self).__name__} has to define build().")

    @classmethod
    def label(cls) -> str:
        """The method's name for people."""
        return cls.title or cls.method

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """A description of each field."""
        return _settings(cls)  # type: ignore[arg-type]  # mypy takes the instance's __hash__ for the class's

    @classmethod
    def options(cls) -> tuple[Setting, ...]:
        """The settings that every interface offers: all except hidden ones and `layers`, which has its own input."""
        return tuple(each for each in cls.settings() if not each.facts.hidden)

    @classmethod
    def preset(cls: type[Config], name: str) -> Config:
        """The configuration that the method's authors use for a task.

        Raises:
            ConfigError: The method has no preset of this name.
        """
        return cls(**cls.preset_settings(name))

    @classmethod
    def preset_settings(cls, name: object) -> Mapping[str, Any]:
        """The settings of `preset`, by field name."""
        found = cls.presets.get(name) if isinstance(name, str) else None
        if found is None:
            allowed = ", ".join(cls.presets)
            what = f"allowed are {allowed}" if allowed else f"the method {cls.method!r} has none"
            raise ConfigError(
                f"preset={name!r} is unknown; {what}.", hint=f"preset={next(iter(cls.presets))}" if allowed else "leave it out"
            )
        return found

    @staticmethod
    def lens_settings(lens: str | None) -> dict[str, Any]:
        """The settings that make any method read through a lens, which replaces the final norm. Empty for None."""
        return {} if lens is None else {"lens": lens, "final_norm": True}

    @property
    def draws(self) -> bool:
        """Whether a random draw at each position decides if the method acts. Callers without positions refuse such settings."""
        return False

    def check_common(self) -> None:
        """Check the shared fields and those made by `setting`, and turn layer indices into a tuple of int.

        Raises:
            ConfigError: A value that is not allowed.
        """
        if not is_named(self.layers):
            object.__setattr__(self, "layers", check_indices(self.layers))  # frozen, and hashable with a tuple
        if isinstance(self.lens, os.PathLike):  # a path, or a loaded lens
            object.__setattr__(self, "lens", os.fspath(self.lens))
        for each in self.settings():
            if each.described:
                each.check(getattr(self, each.name))
        if self.lens is not None and not self.final_norm:
            raise ConfigError(
                f"lens={self.lens!r} and final_norm=False contradict each other: a lens takes the place of the final norm.",
                hint="write final_norm=True, or leave out the lens",
            )


@functools.cache
def _settings(kind: type[MethodConfig]) -> tuple[Setting, ...]:
    return read_settings(kind, COMMON)


@dataclass(frozen=True)
class DoLaConfig(MethodConfig):
    """The settings of DoLa (paper: arXiv 2309.03883).

    Values are validated on construction. Layers are checked against a model's depth when the settings are used with one.

    Attributes:
        layers: Candidate premature layers: "high" (for short answers), "low" (for longer reasoning), "all", a window of the
            last ones ("last:10"), or layer indices in Hugging Face's numbering (0 is the embedding output). One index is
            static DoLa.
        relative_top: Tokens below this fraction of the likeliest token's probability are ruled out. In [0, 1]; 0 keeps all.
        divergence: How the premature layer is chosen: "jsd" is the Jensen-Shannon divergence of the paper; "reference" is
            what transformers 4 and voidism/DoLa compute instead (see `contrast.reference_divergence`).
        strength: How much of the premature layer is subtracted: F = log p - strength * log q. Any finite number from 0; the
            paper uses 1. It does not affect which layer is chosen.
        scores: "contrast" gives F, with all tokens outside the plausible set 1,000 nats below it. "distribution" gives the
            logits of a distribution comparable with the model's own: inside the plausible set softmax(F), scaled to the mass
            that the model gives the set; outside it the model's own probabilities. At strength 0 it is the model's own
            everywhere.
        final_norm: Whether premature layers pass the model's final norm before the head, as the mature layer does. The old
            implementations skipped it.
        lazy: Skip the premature readout where it cannot change the token: for positions with a single plausible token, in a
            `generate` call that returns neither scores nor logits.
        lens: A lens that replaces the final norm when premature layers are read: a file, or a hub id ("id@revision").

    Raises:
        ConfigError: A value is not allowed.

    Examples:
        >>> config = dola.DoLaConfig("low", relative_top=0.05)
        >>> config.layers, config.divergence
        ('low', 'jsd')
        >>> dola.DoLaConfig(**config.as_dict()) == config
        True
    """

    method: ClassVar[str] = "dola"
    title: ClassVar[str] = "DoLa"
    summary: ClassVar[str] = "contrasts the last layer with the earlier one that diverges most from it"
    costs: ClassVar[tuple[Cost, ...]] = on_two_cores(1.05, 1.02)

    layers: str | Sequence[int] = "high"
    _: KW_ONLY
    relative_top: float = setting(
        0.1,
        help="Rule out tokens below this fraction of the likeliest one's probability; 0 rules out none.",
        info="Rules out tokens below this share of the likeliest.",
        low=0,
        high=1,
        hint="use relative_top=0.1, as the paper does",
        by_task=True,
    )
    divergence: str = setting(
        "jsd",
        help="How the layer is chosen: the paper's, or the old code's formula.",
        info="How the layer is chosen.",
        label="Divergence",
        choices=DIVERGENCES,
        hint='use divergence="jsd", the one that the paper defines',
    )
    strength: float = setting(
        1.0,
        help="How much of the earlier layer is subtracted: 0 is none, 1 is the paper's.",
        info="How much of the earlier layer is subtracted.",
        label="Strength",
        low=0,
        hint="use strength=1.0, as the paper does",
    )
    scores: str = setting(
        "contrast",
        help="The contrast with a floor, or a distribution that compares with the model's own.",
        info="The contrast, or a distribution that compares with the model's own.",
        label="Scores",
        choices=SCORES,
        hint='use scores="contrast", the default',
    )
    final_norm: bool = True
    lazy: bool = True
    lens: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.divergence, str):
            object.__setattr__(self, "divergence", DIVERGENCE_ALIASES.get(self.divergence, self.divergence))
        self.check_common()

    def build(self) -> Method:
        """See `MethodConfig.build`."""
        from dola.methods.dola import DoLa

        return DoLa(self)

    @classmethod
    def transformers4(cls, layers: str | Sequence[int] = "high") -> DoLaConfig:
        """Alias of `reference`. The divergence has the same alias, "transformers4"; settings store it as "reference"."""
        return cls.reference(layers)

    @classmethod
    def reference(cls, layers: str | Sequence[int] = "high") -> DoLaConfig:
        """Settings that reproduce transformers 4.55.4 token for token, in float32 at batch size one.

        Premature layers are read out by the bare head, without final norm, soft-cap or logit scale. The divergence is
        `contrast.reference_divergence`. Three of its behaviors are not reproduced: one layer for a whole batch, silently
        dropped out-of-range layers, and the contrast of the last layer with itself.
        """
        return cls(layers, divergence="reference", final_norm=False)

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, without the method's: `DoLaConfig(**settings)` is the same configuration."""
        return asdict(self)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> DoLaConfig:
        """Read the settings from a JSON file that `dola tune --output` writes and `--config` of the command reads.

        Keys are field names, with "-" or "_" between words. `layers` may also be text with comma-separated numbers. A
        `repetition-penalty` is ignored: it is an argument of generation, not a setting of the method.

        Raises:
            ConfigError: The file cannot be read, a key is not a setting, or a value is not allowed. Also if the file says
                `"layers": "off"`, which `dola tune` writes if DoLa does not help; no DoLaConfig means that.
        """
        name = f"The file {str(path)!r}"
        given = read_object(path, name=name, example=_FILE)
        given = {key: value for key, value in given.items() if key.replace("-", "_") != "repetition_penalty"}
        if (method := given.pop("method", cls.method)) != cls.method:
            raise ConfigError(
                f"{name} holds settings of the method {method!r}, not of DoLa.", hint="dola.methods.registry.read_config(path)"
            )
        allowed = [field.name for field in fields(cls)]
        for key in given:
            if key.replace("-", "_") not in allowed:
                raise ConfigError(f"{name}: {key!r} is not a setting of DoLa. Settings: {', '.join(allowed)}.", hint=_FILE)
        settings = {key.replace("-", "_"): value for key, value in given.items()}
        if (layers := settings.get("layers")) == "off":
            raise ConfigError(f"{name} says that DoLa is off.", hint="decode plainly: without dola.attach or dola.generate")
        if layers is not None:
            settings["layers"] = parse(layers)
        return cls(**settings)

    @property
    def raw_head(self) -> bool:
        """Whether premature layers also skip the logit transform, as only the old implementation's readout does."""
        return self.divergence == "reference" and not self.final_norm


_FILE = '{"layers": "high", "final-norm": true}'
