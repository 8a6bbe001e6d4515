"""Settings of methods: frozen dataclasses that check themselves, shared by every door of the package."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from dola.errors import ConfigError
from dola.files.settings_file import read_object
from dola.methods.facts import Cost, Facts, Setting, read_settings, setting
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
"""What people need to know of the fields that methods share. Doors have an input of their own for `layers`; `lazy` follows
from what is asked for."""


class MethodConfig:
    """The settings of a method. Each method derives a frozen dataclass from it, whose fields are its options everywhere.

    A field may leave out what it does not change: `layers` alone is needed. Fields hold what JSON can: text, numbers, booleans,
    lists of them. `__post_init__` calls `check_common`, and then checks what `setting(...)` of a field does not say.

    Attributes:
        method: The method's name, in `registry.METHODS`.
        title: The method's name for people; without one it is `method`.
        summary: What it does, in one line without a subject: "moves ...".
        costs: What it costs where that was measured. The one home of these figures: the command and the docs show them.
        presets: Settings by the name of the task that the method's authors use them for.
        chooses: Whether the scores are the logits of one layer as they are. A layer drawn at random is then a control.
        layers: The candidate layers, see `layers.candidate_layers`.
        final_norm: Whether candidates pass the model's final norm before the head.
        lazy: Whether rows that no layer can change may be left unread where only tokens are asked for.
        lens: A lens through which candidates are read in place of the final norm: a file of `dola lens fit`, or a hub id, with
            or without "@revision". See docs/lens.md.
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

    def as_dict(self) -> dict[str, Any]:
        """The settings by name, for JSON; `config_of` makes the same configuration of them."""
        return {"method": self.method, **asdict(self)}  # type: ignore[call-overload]  # each is a dataclass

    def build(self) -> Method:
        """The method with these settings. Imported here: settings need no torch."""
        raise NotImplementedError(f"{type(self).__name__} has to define build().")

    @classmethod
    def label(cls) -> str:
        """The method's name for people."""
        return cls.title or cls.method

    @classmethod
    def settings(cls) -> tuple[Setting, ...]:
        """What people need to know of each field."""
        return _settings(cls)  # type: ignore[arg-type]  # mypy takes the instance's __hash__ for the class's

    @classmethod
    def options(cls) -> tuple[Setting, ...]:
        """The settings that every door offers: all but the layers, which have an input of their own, and hidden ones."""
        return tuple(each for each in cls.settings() if not each.facts.hidden)

    @classmethod
    def preset(cls: type[Config], name: str) -> Config:
        """The configuration that the method's authors use for a task.

        Raises:
            ConfigError: A task for which there is none.
        """
        return cls(**cls.preset_settings(name))

    @classmethod
    def preset_settings(cls, name: object) -> Mapping[str, Any]:
        """The settings of `preset` by name."""
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
        """What a configuration of any method needs to read through a lens: it takes the place of the final norm."""
        return {} if lens is None else {"lens": lens, "final_norm": True}

    @property
    def draws(self) -> bool:
        """Whether it is drawn at each position if the method acts. What has no positions to give refuses such settings."""
        return False

    def check_common(self) -> None:
        """Check the fields that methods share, and those that are made by `setting`; indices become a tuple of int.

        Raises:
            ConfigError: A value that is not allowed.
        """
        if not is_named(self.layers):
            object.__setattr__(self, "layers", check_indices(self.layers))  # frozen, and hashable with a tuple
        if isinstance(self.lens, os.PathLike):
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
    """The settings of the method (paper: arXiv 2309.03883).

    Checked on construction against nothing but itself, and against a model's depth when it is attached to one.

    Attributes:
        layers: Candidate premature layers: "high" (for short answers), "low" (for longer reasoning), "all", a window of the
            last ones ("last:10"), or layer indices in Hugging Face's numbering (0 is the embedding output). One index is
            static DoLa.
        relative_top: Tokens below this fraction of the likeliest token's probability are ruled out. In [0, 1]; 0 keeps all.
        divergence: How the premature layer is chosen: "jsd" is the Jensen-Shannon divergence of the paper, "reference" what
            transformers 4 and voidism/DoLa compute in its place (see `contrast.reference_divergence`).
        strength: How much of the premature layer is subtracted: F = log p - strength * log q. Any finite number from 0; 1 is
            the paper's. It does not change which layer is chosen.
        scores: "contrast" is F, with all tokens outside the plausible set 1,000 nats below it. "distribution" is a
            distribution beside the model's own, as logits: inside the plausible set softmax(F), scaled to the mass that the
            model gives the set; outside it the model's own. At strength 0 it is the model's own everywhere.
        final_norm: Whether premature layers pass the model's final norm before the head, as the mature one does. The old
            implementations left it out.
        lazy: Skip the premature readout where it cannot change the token: in a `generate` call that returns neither scores
            nor logits, for positions with a single plausible token.
        lens: A lens through which premature layers are read in place of the final norm: a file, or a hub id ("id@revision").

    Raises:
        ConfigError: A value that is not allowed.

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
        """As MethodConfig."""
        from dola.methods.dola import DoLa

        return DoLa(self)

    @classmethod
    def transformers4(cls, layers: str | Sequence[int] = "high") -> DoLaConfig:
        """`reference`, by the name of what it repeats. The divergence has this name too; settings keep it as "reference"."""
        return cls.reference(layers)

    @classmethod
    def reference(cls, layers: str | Sequence[int] = "high") -> DoLaConfig:
        """The method as transformers 4.55.4 decoded it, token for token in float32 at batch size one.

        Premature layers are read out by the bare head: no final norm, no soft-cap or logit scale; the divergence is
        `contrast.reference_divergence`. Not taken over: one layer for a whole batch, dropped out-of-range layers, the
        contrast of the last layer with itself.
        """
        return cls(layers, divergence="reference", final_norm=False)

    def as_dict(self) -> dict[str, Any]:
        """As MethodConfig, without the method's name; `DoLaConfig(**settings)` is the same configuration."""
        return asdict(self)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> DoLaConfig:
        """The settings of a JSON file, as `dola tune --output` writes it and `--config` of the command reads it.

        Names are those of the fields, with "-" or "_" between words; `layers` may be written as numbers with commas, too. A
        `repetition-penalty`, with which a task's texts were judged, is not a setting of the method and is left to the caller.

        Raises:
            ConfigError: The file cannot be read, a name is not a setting, a value is not allowed; or the file has
                `"layers": "off"`, which `dola tune` writes if DoLa does not help and no DoLaConfig can express.
        """
        name = f"The file {str(path)!r}"
        given = read_object(path, name=name, example=_FILE)
        given = {key: value for key, value in given.items() if key.replace("-", "_") != "repetition_penalty"}
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
        """Whether premature layers skip the logit transform as well: only in the old implementation's readout."""
        return self.divergence == "reference" and not self.final_norm


_FILE = '{"layers": "high", "final-norm": true}'
