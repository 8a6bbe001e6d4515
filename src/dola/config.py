"""How DoLa decodes: one frozen dataclass, shared by every door of the package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from numbers import Real

from dola.contrast import DIVERGENCES
from dola.errors import ConfigError
from dola.layers import BUCKETS, check_indices


@dataclass(frozen=True)
class DoLaConfig:
    """The settings of the method (paper: arXiv 2309.03883).

    Checked on construction against nothing but itself, and against a model's depth when it is attached to one.

    Attributes:
        layers: Candidate premature layers: "high" (for short answers), "low" (for longer reasoning), "all", or layer
            indices in Hugging Face's numbering (0 is the embedding output). One index is static DoLa.
        relative_top: Tokens below this fraction of the likeliest token's probability are ruled out. In [0, 1]; 0 keeps all.
        divergence: How the premature layer is chosen: "jsd" is the Jensen-Shannon divergence of the paper, "reference" what
            transformers 4 and voidism/DoLa compute in its place (see `contrast.reference_divergence`).
        final_norm: Whether premature layers pass the model's final norm before the head, as the mature one does. The old
            implementations left it out.
        lazy: Skip the premature readout where it cannot change the token: in a `generate` call that returns neither scores
            nor logits, for positions with a single plausible token.
    """

    layers: str | Sequence[int] = "high"
    _: KW_ONLY
    relative_top: float = 0.1
    divergence: str = "jsd"
    final_norm: bool = True
    lazy: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.layers, str) and self.layers in BUCKETS):
            object.__setattr__(self, "layers", check_indices(self.layers))  # frozen, and hashable with a tuple
        if isinstance(self.relative_top, bool) or not isinstance(self.relative_top, Real):
            raise ConfigError(f"relative_top={self.relative_top!r} is not a number; allowed is [0, 1].", hint=_TOP)
        if math.isnan(self.relative_top) or not 0 <= self.relative_top <= 1:
            raise ConfigError(f"relative_top={self.relative_top} is out of range; allowed is [0, 1].", hint=_TOP)
        if self.divergence not in DIVERGENCES:
            raise ConfigError(
                f"divergence={self.divergence!r} is unknown; allowed are {', '.join(map(repr, DIVERGENCES))}.",
                hint='use divergence="jsd", the one that the paper defines',
            )
        for name in ("final_norm", "lazy"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is not a bool; allowed are True and False.", hint=f"write {name}=True"
                )

    @classmethod
    def reference(cls, layers: str | Sequence[int] = "high") -> DoLaConfig:
        """The method as transformers 4.55.4 decoded it, token for token in float32 at batch size one.

        Premature layers are read out by the bare head: no final norm, no soft-cap or logit scale; the divergence is
        `contrast.reference_divergence`. Not taken over: one layer for a whole batch, dropped out-of-range layers, the
        contrast of the last layer with itself.
        """
        return cls(layers, divergence="reference", final_norm=False)

    @property
    def raw_head(self) -> bool:
        """Whether premature layers skip the logit transform as well: only in the old implementation's readout."""
        return self.divergence == "reference" and not self.final_norm


_TOP = "use relative_top=0.1, as the paper does"
