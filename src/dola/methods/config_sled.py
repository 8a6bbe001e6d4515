"""Settings of SLED (arXiv 2411.02433)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from dola.methods.config import MethodConfig
from dola.methods.facts import Cost, on_two_cores, setting

if TYPE_CHECKING:
    from dola.methods.method import Method


@dataclass(frozen=True)
class SLEDConfig(MethodConfig):
    """The settings of SLED, which moves the likeliest tokens' logits toward a distribution estimated from all layers.

    Attributes:
        layers: The layers that are compared with the last one. The official code uses all of them.
        rate: Evolution rate: how far one step moves the logits.
        scale: Evolution scale: how many of the likeliest tokens are considered. All others are ruled out.
        steps: Number of steps, each smaller than the one before. The official code takes ten when it scores given texts and
            one when it generates.
        final_norm: Whether the layers pass the model's final norm before the head. In the official code they do not.
        lens: A lens that replaces the final norm when the layers are read: a file, or a hub id ("id@revision"). It needs
            final_norm=True.

    Examples:
        >>> config = dola.SLEDConfig.preset("strategyqa")
        >>> config.rate, config.scale
        (1.75, 5)
    """

    method: ClassVar[str] = "sled"
    title: ClassVar[str] = "SLED"
    summary: ClassVar[str] = "moves the likeliest tokens' logits toward a distribution estimated from all layers"
    costs: ClassVar[tuple[Cost, ...]] = on_two_cores(1.18, 1.29)
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "factor": {"rate": 2.0, "scale": 10},
        "gsm8k": {"rate": 2.0, "scale": 10},
        "strategyqa": {"rate": 1.75, "scale": 5},
        "truthfulqa": {"rate": 2.5, "scale": 75},
    }
    """From the commands for Llama 2 7B in the README of JayZhang42/SLED (commit 00067af). docs/methods/sled.md has more."""

    layers: str | Sequence[int] = "all"
    _: KW_ONLY
    rate: float = setting(2.0, help="How far one step of the evolution moves the logits.", low=0, hint="rate=2")
    scale: int = setting(
        10, help="How many of the likeliest tokens are considered; others are ruled out.", low=1, hint="scale=10"
    )
    steps: int = setting(10, help="How many steps the evolution takes.", low=1, hint="steps=10")
    final_norm: bool = False
    lens: str | None = None

    def __post_init__(self) -> None:
        self.check_common()

    def build(self) -> Method:
        """See `MethodConfig.build`."""
        from dola.methods.sled import SLED

        return SLED(self)
