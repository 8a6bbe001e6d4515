"""Settings of Confident Decoding (arXiv 2606.21906)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import TYPE_CHECKING, ClassVar

from dola.errors import LayersError
from dola.methods.config import MethodConfig
from dola.methods.facts import Cost, on_two_cores, setting

if TYPE_CHECKING:
    from dola.methods.method import Method


@dataclass(frozen=True)
class ConfidentConfig(MethodConfig):
    """The settings of Confident Decoding, which walks down from the last layer while each layer is more certain than the one
    above.

    Attributes:
        layers: The layers that the walk may reach, from the highest down: a window of the last ones, "all", or indices.
            DoLa's buckets, which leave out every second layer, are refused.
        probability: Share of positions at which the method is used; the others are decoded plainly. 0 is plain decoding.
        seed: Seed of the draw, which depends only on the seed and on the position in the sequence.
        final_norm: Whether the layers pass the model's final norm before the head, as the last one does.
        lens: A lens that replaces the final norm when the layers are read: a file, or a hub id ("id@revision").

    Examples:
        >>> config = dola.ConfidentConfig(layers="last:5")
        >>> config.as_dict()["method"], config.probability
        ('confident', 1.0)
    """

    method: ClassVar[str] = "confident"
    title: ClassVar[str] = "Confident Decoding"
    summary: ClassVar[str] = "decodes from the layer near the last one at which the entropy stops falling"
    costs: ClassVar[tuple[Cost, ...]] = on_two_cores(1.06, 1.04)
    chooses: ClassVar[bool] = True

    layers: str | Sequence[int] = "last:10"
    _: KW_ONLY
    probability: float = setting(
        1.0, help="Share of positions that use the method; the others are decoded plainly.", low=0, high=1, hint="probability=1"
    )
    seed: int = setting(0, help="Seed of the draw, used if the probability is below 1.", low=0, high=2**32 - 1, hint="seed=0")
    final_norm: bool = True
    lens: str | None = None

    def __post_init__(self) -> None:
        self.check_common()
        if self.layers in ("low", "high"):
            raise LayersError(
                f"layers={self.layers!r} does not fit the method 'confident': it is every second layer of a half of the model, "
                'and the walk goes down layer by layer; allowed are a window such as "last:10", "all", or indices.',
                hint='layers="last:10", the method\'s own',
            )

    @property
    def draws(self) -> bool:
        """See `MethodConfig.draws`."""
        return 0 < self.probability < 1

    def build(self) -> Method:
        """See `MethodConfig.build`."""
        from dola.methods.confident import Confident

        return Confident(self)
