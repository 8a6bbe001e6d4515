"""Turns the options of a method into a configuration. `field_options.py` makes the options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dola.cli.endings import importing
from dola.errors import UsageError
from dola.files.json_text import loads
from dola.methods.config import DoLaConfig
from dola.methods.layers import is_named, parse

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig


@dataclass(frozen=True)
class MethodOptions:
    """The options of a command line that concern the method.

    Attributes:
        layers: Value of `--layers`; None if not given.
        reference: Whether `--reference` was given.
        method: Value of `--method`; None means DoLa.
        named: Values of `--set`, as typed.
        given: Values of the given options that are made from DoLa's fields, by field.
    """

    layers: str | None = None
    reference: bool = False
    method: str | None = None
    named: Sequence[str] | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_dola(self) -> bool:
        """Whether the method is DoLa."""
        return is_dola(self.method)

    def config(self, usual: Mapping[str, Any] | None = None) -> MethodConfig | None:
        """The configuration for these options; None for `--layers off`. Without `--layers` it has the method's own layers.

        Args:
            usual: Defaults of DoLa's settings that replace those of its fields.

        Raises:
            UsageError: The options contradict each other.
            ConfigError: A value is not allowed.
        """
        if self.layers == "off":
            self._check_off()
            return None
        if self.reference:
            self._check_reference()
        with importing():  # torch comes with it
            from dola.methods.registry import config_of
        named = settings_by_name(self.named)
        asked = self._asked() if self.is_dola else self._asked_of_another()
        if twice := sorted(self.given.keys() & named.keys()):
            raise UsageError(f"{twice[0]} was given by --set and by its option.", hint="give one of them")
        base = {**self._base().as_dict(), **(usual or {})} if self.is_dola else {"method": self.method}
        return config_of({**base, **asked, **named})

    def _base(self) -> DoLaConfig:
        return DoLaConfig.reference() if self.reference else DoLaConfig()

    def _asked(self) -> dict[str, Any]:
        layers = {} if self.layers is None else {"layers": parse_layers(self.layers)}
        return {**layers, **self.given}

    def _asked_of_another(self) -> dict[str, Any]:
        """The given settings for a method other than DoLa. Options that only DoLa has are refused."""
        from dola.methods.registry import config_class, settings_of

        theirs = settings_of(config_class(self.method))
        own = [flag for name, flag in self._flags().items() if name not in theirs]
        if own := [*own, *(["--reference"] if self.reference else [])]:
            raise UsageError(
                f"{' and '.join(own)} cannot be used with --method {self.method}: only DoLa has it.",
                hint=f"leave it out; give settings of {self.method} with --set name=value",
            )
        return self._asked()

    def _flags(self) -> dict[str, str]:
        """The given options as typed, by field."""
        return {name: flag(name, off=value is False) for name, value in self.given.items()}

    def _check_off(self) -> None:
        given = [*self._flags().values(), *(["--reference"] if self.reference else [])]
        given += [name for name, value in (("--method", self.method), ("--set", self.named)) if value]
        if given:
            raise UsageError(
                f"{' and '.join(given)} cannot be used with --layers off, which decodes without DoLa.",
                hint="leave it out, or name layers: --layers high",
            )

    def _check_reference(self) -> None:
        usual, reference = DoLaConfig().as_dict(), DoLaConfig.reference().as_dict()
        if clash := [text for name, text in self._flags().items() if usual.get(name) != reference.get(name)]:
            raise UsageError(
                f"--reference sets the divergence and the final norm itself, and {' and '.join(clash)} was given too.",
                hint="give --reference alone, or only the others",
            )


DEFAULTS = MethodOptions()
"""The options if none was given."""


def flag(name: str, *, off: bool = False) -> str:
    """The flag of a setting, or the one that switches it off."""
    return f"--{'no-' if off else ''}{name.replace('_', '-')}"


def is_dola(method: str | None) -> bool:
    """Whether `--method` means DoLa."""
    return method in (None, "dola")


def named_config(layers: str | None, method: str | None, set_: list[str] | None) -> MethodConfig:
    """The configuration of verbs whose only options for it are `--layers`, `--method` and `--set`."""
    from dola.methods.registry import config_of

    named = {name: value for name, value in (("layers", layers), ("method", method)) if value is not None}
    return config_of({**named, **settings_by_name(set_)})


def settings_by_name(given: Sequence[str] | None) -> dict[str, Any]:
    """The settings in `--set`, with values parsed as JSON if possible, otherwise as text.

    Raises:
        UsageError: A value has no "=", a name is given twice, or it is layers, which have their own option.
    """
    found: dict[str, Any] = {}
    for each in given or ():
        name, equals, text = each.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name:
            example = next(each for each in DoLaConfig.options() if each.kind is float)
            raise UsageError(f"--set {each!r} is not a name and a value.", hint=f"--set {example.name}=0.2")
        if name in found:
            raise UsageError(f"--set gives {name} twice.", hint="give it once")
        if name in ("layers", "method"):
            raise UsageError(f"--set cannot set {name}: it has its own option, --{name}.", hint=f"--{name} {text}")
        try:
            found[name] = loads(text.strip())
        except ValueError:
            found[name] = text.strip()
    return found


def settings_beside_layers(config: MethodConfig | None) -> dict[str, Any]:
    """The method's settings other than its layers, for JSON; without a method, DoLa's settings as null."""
    kind = DoLaConfig if config is None else type(config)
    hidden = {each.name for each in kind.settings() if each.facts.hidden}
    found = (config or DoLaConfig()).as_dict()
    return {name: config and value for name, value in found.items() if name not in hidden}


def documented(prefix: str, meaning: str, *, hidden: Sequence[str] = ()) -> dict[str, str]:
    """Rows of a verb's SCHEMA for the settings from `settings_beside_layers`.

    Args:
        prefix: Path of the object that holds them.
        meaning: The description of each.
        hidden: Names of further settings.
    """
    return {f"{prefix}.{name}": meaning for name in (*(each.name for each in DoLaConfig.options()), *hidden)}


def parse_layers(text: str) -> str | tuple[int, ...]:
    """Parse `--layers` to a name of layers or a tuple of indices, as DoLaConfig expects it.

    Raises:
        UsageError: It is neither.
    """
    layers = parse(text)
    if isinstance(layers, str) and is_named(layers):
        return layers
    if not isinstance(layers, tuple):
        raise UsageError(
            f"--layers {text!r} is not known; allowed are high, low, all, off, last:10, or numbers separated by commas.",
            hint="--layers high, or for instance --layers 24,28",
        )
    return layers
