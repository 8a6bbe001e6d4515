"""How a continuation is scored: which distribution, and how its tokens' log-likelihoods become one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

from dola.errors import ConfigError
from dola.methods.config import DoLaConfig, MethodConfig

SOFTMAX = ("masked", "full", "none")
PREMATURE = ("divergent", "random", "none", "flat", "sharp")
POWERS = {"none": 1.0, "flat": 0.0, "sharp": 2.0}
"""Where no layer is contrasted: the power of the model's own probabilities on the plausible set."""


@dataclass(frozen=True)
class Recipe:
    """A way to score a token under DoLa, with F (contrast.py) and V the plausible set.

    Where the settings say `scores="distribution"`, a score is the token's log-probability under that distribution, which can
    be compared with the model's own: no floor, no length bonus.

    Attributes:
        dola: The settings of a method; None for the model's own log-likelihood.
        softmax: "masked" is the distribution that decoding samples from: log_softmax of `contrast.contrast`, in which tokens
            outside V are 1,000 nats lower. "full" and "none" are the reference's `post_softmax` on and off: log_softmax of F
            over the whole vocabulary, or F itself, which is not a log-likelihood: it adds a positive amount for
            each token, so that longer continuations win. In both, a token outside V scores `floor`.
        floor: The score of an implausible token where softmax is "full" or "none".
        mean: Whether the score of a continuation is the mean over its tokens, not their sum.
        premature: Which candidate is contrasted: the one that diverges most, one drawn at random for each token (a control), or
            none: F = log p, the plausibility constraint alone (another control). "flat" and "sharp" are controls that read no
            layer either: they make the plausible set uniform, or sharpen it with a temperature of 0.5. It keeps its mass, and
            all other tokens their probabilities, as with `scores="distribution"`.
        seed: Seed of the random layers.

    Raises:
        ConfigError: A value that is not allowed, or one of DoLa's that another method does not have.

    Examples:
        >>> recipe = dola.Recipe(dola.DoLaConfig("high"), premature="random")  # a control
        >>> recipe.softmax, recipe.seed
        ('masked', 0)
        >>> dola.Recipe.truthfulqa().softmax  # as the paper's code scored TruthfulQA
        'none'
    """

    dola: MethodConfig | None
    _: KW_ONLY
    softmax: str = "masked"
    floor: float = -1000.0
    mean: bool = False
    premature: str = "divergent"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("softmax", SOFTMAX), ("premature", PREMATURE)):
            if getattr(self, name) not in allowed:
                raise ConfigError(
                    f"{name}={getattr(self, name)!r} is unknown; allowed are {', '.join(map(repr, allowed))}.",
                    hint=f"write {name}={allowed[0]!r}, the default",
                )
        given = [name for name, usual in (("softmax", "masked"), ("premature", "divergent")) if getattr(self, name) != usual]
        if self.premature == "random" and isinstance(self.dola, MethodConfig) and self.dola.chooses:
            given.remove("premature")  # a layer's own logits, drawn instead of chosen
        if given and isinstance(self.dola, MethodConfig) and not isinstance(self.dola, DoLaConfig):
            raise ConfigError(
                f"{given[0]}={getattr(self, given[0])!r} is of DoLa; the method here is {self.dola.method!r}.",
                hint=f"leave {given[0]} out: what is scored is then the distribution that decoding samples from",
            )
        if self.keeps_mass and self.softmax != "masked":
            raise ConfigError(
                f'softmax={self.softmax!r} needs scores="contrast": a distribution is normalized already.',
                hint='leave softmax out, or use scores="contrast"',
            )

    @property
    def constrained(self) -> bool:
        """Whether DoLa's plausible set leaves tokens out."""
        return isinstance(self.dola, DoLaConfig) and self.dola.relative_top > 0

    @property
    def keeps_mass(self) -> bool:
        """Whether the plausible set keeps the mass that the model gives it: a distribution beside the model's own."""
        return isinstance(self.dola, DoLaConfig) and (self.dola.scores == "distribution" or self.premature in ("flat", "sharp"))

    @classmethod
    def reference(cls, layers: str | Sequence[int], *, relative_top: float, post_softmax: bool) -> Recipe:
        """The reference's recipe under the names of its arguments, in which the paper's runs differ."""
        config = replace(DoLaConfig.reference(layers), relative_top=relative_top)
        return cls(config, softmax="full" if post_softmax else "none")

    @classmethod
    def truthfulqa(cls, layers: str | Sequence[int] = "high") -> Recipe:
        """The reference's recipe for TruthfulQA-MC, from which the paper's table comes: no normalization, no constraint."""
        return cls.reference(layers, relative_top=0.0, post_softmax=False)

    @classmethod
    def factor(cls, layers: str | Sequence[int] = "low") -> Recipe:
        """The reference's recipe for FACTOR: normalized over the whole vocabulary, then -1000 for implausible tokens."""
        return cls.reference(layers, relative_top=0.1, post_softmax=True)
