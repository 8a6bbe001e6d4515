"""Settings of methods: frozen dataclasses that check themselves, shared by every door of the package."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import KW_ONLY, asdict, dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, ClassVar

from dola.errors import ConfigError
from dola.files.settings_file import read_object
from dola.methods.layers import check_indices, is_named, parse
from dola.methods.names import DIVERGENCES

if TYPE_CHECKING:
    from dola.methods.method import Method


class MethodConfig:
    """The settings of a method. Each method derives a frozen dataclass from it, whose fields are its options everywhere.

    A field may leave out what it does not change: `layers` alone is needed. Fields hold what JSON can: text, numbers, booleans,
    lists of them. `__post_init__` calls `check_common`, and then checks the method's own fields.

    Attributes:
        method: The method's name, in `registry.METHODS`.
        layers: The candidate layers, see `layers.candidate_layers`.
        final_norm: Whether candidates pass the model's final norm before the head.
        lazy: Whether rows that no layer can change may be left unread where only tokens are asked for.
        lens: A lens through which candidates are read in place of the final norm: a file of `dola lens fit`, or a hub id with or
            without "@revision". See docs/lens.md.
    """

    method: ClassVar[str]
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

    def check_common(self) -> None:
        """Check `layers`, `final_norm` and `lazy`; indices become a tuple of int.

        Raises:
            ConfigError: A value that is not allowed.
        """
        if not is_named(self.layers):
            object.__setattr__(self, "layers", check_indices(self.layers))  # frozen, and hashable with a tuple
        for name in ("final_norm", "lazy"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not a bool; allowed are True and False.", hint=f"write {name}=True"
                )
        self._check_lens()

    def _check_lens(self) -> None:
        """Check what can be checked of a lens without reading it."""
        if self.lens is None:
            return
        if isinstance(self.lens, os.PathLike):
            object.__setattr__(self, "lens", os.fspath(self.lens))
        if not isinstance(self.lens, str) or not self.lens.strip():
            raise ConfigError(
                f"lens={self.lens!r} is neither a file nor a hub id; allowed is text, or None for no lens.",
                hint='lens="smollm2.lens.safetensors"',
            )
        if not self.final_norm:
            raise ConfigError(
                f"lens={self.lens!r} and final_norm=False were both given: a lens takes the place of the final norm.",
                hint="leave out final_norm=False, or the lens",
            )


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
        final_norm: Whether premature layers pass the model's final norm before the head, as the mature one does. The old
            implementations left it out.
        lazy: Skip the premature readout where it cannot change the token: in a `generate` call that returns neither scores
            nor logits, for positions with a single plausible token.
        lens: A lens through which premature layers are read in place of the final norm: a file, or a hub id ("id@revision").
    """

    method: ClassVar[str] = "dola"

    layers: str | Sequence[int] = "high"
    _: KW_ONLY
    relative_top: float = 0.1
    divergence: str = "jsd"
    final_norm: bool = True
    lazy: bool = True
    lens: str | None = None

    def __post_init__(self) -> None:
        self.check_common()
        if isinstance(self.relative_top, bool) or not isinstance(self.relative_top, Real):
            raise ConfigError(f"relative_top={self.relative_top!r} is not a number; allowed is [0, 1].", hint=_TOP)
        if math.isnan(self.relative_top) or not 0 <= self.relative_top <= 1:
            raise ConfigError(f"relative_top={self.relative_top} is out of range; allowed is [0, 1].", hint=_TOP)
        if self.divergence not in DIVERGENCES:
            raise ConfigError(
                f"divergence={self.divergence!r} is unknown; allowed are {', '.join(map(repr, DIVERGENCES))}.",
                hint='use divergence="jsd", the one that the paper defines',
            )

    def build(self) -> Method:
        """As MethodConfig."""
        from dola.methods.dola import DoLa

        return DoLa(self)

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
        `repetition-penalty`, with which a task's texts were judged, is no setting of the method and is left to the caller.

        Raises:
            ConfigError: A file that cannot be read, a name that is none of these settings, a value that is not allowed; or
                `"layers": "off"`, which is what `dola tune` writes where DoLa does not help: there is no DoLaConfig for that.
        """
        name = f"The file {str(path)!r}"
        given = read_object(path, name=name, example=_FILE)
        given = {key: value for key, value in given.items() if key.replace("-", "_") != "repetition_penalty"}
        allowed = [field.name for field in fields(cls)]
        for key in given:
            if key.replace("-", "_") not in allowed:
                raise ConfigError(f"{name}: {key!r} is no setting of DoLa; there are {', '.join(allowed)}.", hint=_FILE)
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
_TOP = "use relative_top=0.1, as the paper does"
