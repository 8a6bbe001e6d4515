"""Descriptions of a method's settings. Each interface builds its input from them: an option, a widget, an argument.

    rate: float = setting(0.5, help="How much the candidates count.", low=0, high=1)

A field without `setting` works too: its type comes from the annotation. This module does not need torch.
"""

from __future__ import annotations

import math
import typing
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from numbers import Real
from typing import Any

from dola.errors import ConfigError

KEY = "dola"
"""Key of the Facts in a dataclass field's metadata."""


@dataclass(frozen=True)
class Facts:
    """The description of a field, beyond its annotation.

    Attributes:
        help: One sentence for the command's help.
        info: One sentence for the web page; defaults to `help`.
        label: Name on the web page; defaults to the field's name.
        low, high: Allowed range, both ends included; None is unlimited.
        choices: Allowed values of a text field.
        hint: How to correct a value that is not allowed.
        hidden: Whether interfaces omit the field, or have an input of their own for it.
        by_task: Whether `eval` and `tune` take the default from the task, because the paper's runs differ in it.
    """

    help: str = ""
    info: str = ""
    label: str = ""
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    hint: str = ""
    hidden: bool = False
    by_task: bool = False

    @property
    def lowest(self) -> float:
        """`low` as a number, -inf if unlimited."""
        return -math.inf if self.low is None else self.low

    @property
    def highest(self) -> float:
        """`high` as a number, inf if unlimited."""
        return math.inf if self.high is None else self.high


@dataclass(frozen=True)
class Cost:
    """A measured time of a method.

    Attributes:
        times: Time of a token, greedy decoding's being 1.
        where: Model, dtype, batch, machine and version of the measurement.
    """

    times: float
    where: str

    def __str__(self) -> str:
        return f"{self.times:.2f} times the time of greedy decoding ({self.where})"


def on_two_cores(smollm2: float, gemma3: float) -> tuple[Cost, Cost]:
    """Costs from benchmarks/results/methods.json, in which greedy decoding itself varies by 2 to 3%."""
    where = "bfloat16, batch 1, two CPU cores, November 2026"
    return Cost(smollm2, f"SmolLM2-135M, {where}"), Cost(gemma3, f"Gemma 3 270M, {where}")


def setting(default: Any, **facts: Any) -> Any:
    """A dataclass field with this default and these `Facts`."""
    return field(default=default, metadata={KEY: Facts(**facts)})


@dataclass(frozen=True)
class Setting:
    """One field of a method's configuration.

    Attributes:
        name: The field's name.
        kind: bool, int, float or str; object if other types are allowed.
        default: The field's default; None if it has none.
        optional: Whether None is allowed.
        facts: The field's description.
        described: Whether the field has a description, so that `check_common` checks its values.
    """

    name: str
    kind: type
    default: Any
    optional: bool
    facts: Facts
    described: bool

    @property
    def label(self) -> str:
        """Name shown to users."""
        return self.facts.label or self.name

    @property
    def info(self) -> str:
        """One sentence for the web page."""
        return self.facts.info or self.facts.help

    @property
    def choices(self) -> tuple[str, ...]:
        """Allowed values of a text field; empty if any text is allowed."""
        return self.facts.choices

    def words(self, value: Any) -> str:
        """A short phrase for a value, used in names: "no final norm", "reference divergence", "rate 0.5"."""
        label = self.label.lower()
        if self.kind is bool:
            return label if value else f"no {label}"
        return f"{value} {label}" if self.choices else f"{label} {value}"

    @property
    def allowed(self) -> str:
        """The allowed numbers, as text."""
        low, high = self.facts.low, self.facts.high
        if low is None:
            return "any number" if high is None else f"{high:g} or less"
        return f"{low:g} or more" if high is None else f"[{low:g}, {high:g}]"

    def allows(self, value: Any) -> bool:
        """Whether a configuration may have this value."""
        try:
            self.check(value)
        except ConfigError:
            return False
        return True

    def check(self, value: Any) -> None:
        """Refuse a value that is not allowed.

        Raises:
            ConfigError: The value has another type, is out of range, or is not one of the choices.
        """
        if self.kind is object or (value is None and self.optional):
            return
        hint = self.facts.hint or f"write {self.name}={self.default!r}"
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ConfigError(
                    f"{self.name}={value!r} is not a bool; allowed are True and False.", hint=f"write {self.name}=True"
                )
        elif self.choices:
            if value not in self.choices:
                allowed = ", ".join(map(repr, self.choices))
                raise ConfigError(f"{self.name}={value!r} is unknown; allowed are {allowed}.", hint=hint)
        elif self.kind is str:
            if not isinstance(value, str):
                raise ConfigError(f"{self.name}={value!r} is not text.", hint=hint)
        else:
            self._check_number(value, hint)

    def _check_number(self, value: Any, hint: str) -> None:
        whole = self.kind is int
        if isinstance(value, bool) or not (hasattr(value, "__index__") if whole else isinstance(value, Real)):
            what = "an integer" if whole else "a number"
            raise ConfigError(f"{self.name}={value!r} is not {what}; allowed is {self.allowed}.", hint=hint)
        if not (math.isfinite(value) and self.facts.lowest <= value <= self.facts.highest):
            raise ConfigError(f"{self.name}={value} is out of range; allowed is {self.allowed}.", hint=hint)


def read_settings(kind: type, common: Mapping[str, Facts]) -> tuple[Setting, ...]:
    """The settings of a configuration class, in the order of its fields.

    Args:
        kind: A dataclass.
        common: Facts of shared fields, used for fields without their own.
    """
    hints: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        with suppress(Exception):  # an annotation may name something that is imported only for type checking
            hints |= typing.get_type_hints(base, localns={"KW_ONLY": object})  # Python 3.10 takes the marker for no type
    found = []
    for each in fields(kind):
        default = None if each.default is MISSING else each.default
        facts = each.metadata.get(KEY) or common.get(each.name)
        found.append(_setting(each.name, hints.get(each.name, type(default)), default, facts))
    return tuple(found)


def _setting(name: str, annotation: Any, default: Any, facts: Facts | None) -> Setting:
    parts = [annotation] if typing.get_origin(annotation) is typing.Literal else [*typing.get_args(annotation)] or [annotation]
    rest = [part for part in parts if part is not type(None)]
    kind, choices = rest[0] if len(rest) == 1 else object, ()
    if typing.get_origin(kind) is typing.Literal:
        kind, choices = str, typing.get_args(kind)
    known = facts or Facts(choices=choices)
    simple = kind if kind in (bool, int, float, str) else object
    return Setting(name, simple, default, default is None or len(rest) < len(parts), known, facts is not None)
