"""Settings of DeLTa (arXiv 2503.02343)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar

from dola.methods.config import MethodConfig
from dola.methods.facts import Cost, on_two_cores, setting

if TYPE_CHECKING:
    from dola.methods.method import Method


@dataclass(frozen=True)
class DeLTaConfig(MethodConfig):
    """The settings of DeLTa, which extrapolates each token's logits beyond the last layer along a fitted line.

    Attributes:
        layers: The layers that the line is fitted to, in addition to the last one.
        beyond: How far above the last layer the line is evaluated, in layers. The official code uses one layer or less.
        relative_top: Tokens below this fraction of the likeliest token's probability are ruled out. In [0, 1]; 0 keeps all.
        final_norm: Whether the layers pass the model's final norm before the head, as the last one does.
        lazy: Skip positions with a single plausible token in calls that return only tokens.
        lens: A lens that replaces the final norm when the layers are read: a file, or a hub id ("id@revision").

    Examples:
        >>> config = dola.DeLTaConfig(beyond=0.5)
        >>> config.layers, config.beyond
        ('last:16', 0.5)
    """

    method: ClassVar[str] = "delta"
    title: ClassVar[str] = "DeLTa"
    summary: ClassVar[str] = "fits a line to each token's logits over the last layers and extrapolates it beyond the last one"
    costs: ClassVar[tuple[Cost, ...]] = on_two_cores(1.05, 1.08)

    layers: str | Sequence[int] = "last:16"
    _: KW_ONLY
    beyond: float = setting(1.0, help="How far above the last layer the line is evaluated, in layers.", hint="beyond=1")
    relative_top: float = setting(
        0.1,
        help="Rule out tokens below this fraction of the likeliest one's probability; 0 rules out none.",
        low=0,
        high=1,
        hint="relative_top=0.1",
    )
    final_norm: bool = True
    lazy: bool = True
    lens: str | None = None

    def __post_init__(self) -> None:
        self.check_common()

    def build(self) -> Method:
        """See `MethodConfig.build`."""
        from dola.methods.delta import DeLTa

        return DeLTa(self)
