"""How a continuation is scored: the distribution, and how its tokens' log-likelihoods are combined into one number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, replace

from dola.errors import ConfigError
from dola.methods.config import DoLaConfig, MethodConfig

SOFTMAX = ("masked", "full", "none")
PREMATURE = ("divergent", "random", "none", "flat", "sharp")
POWERS = {"none": 1.0, "flat": 0.0, "sharp": 2.0}
"""Recipes that contrast no layer, and the power that they raise the model's own probabilities to on the plausible set."""


@dataclass(frozen=True)
class Recipe:
    """A way to score a token under DoLa. F is the contrast (contrast.py) and V the plausible set.

    With `scores="distribution"` in the settings, a score is the token's log-probability under that distribution. It can be
    compared with the model's own: it has no floor and no length bonus.

    Attributes:
        dola: The settings of a method; None for the model's own log-likelihood.
        softmax: "masked" is the distribution that decoding samples from: log_softmax of `contrast.contrast`, in which tokens
            outside V are 1,000 nats lower. "full" and "none" are the reference's `post_softmax` on and off: log_softmax of F
            over the whole vocabulary, or F itself. F is not a log-likelihood: each token adds a positive amount, so longer
            continuations win. In both, a token outside V scores `floor`.
        floor: Score of an implausible token if softmax is "full" or "none".
        mean: Whether the score of a continuation is the mean over its tokens instead of their sum.
        premature: Which candidate is contrasted: "divergent", the one that diverges most; "random", one drawn for each token (a
            control); or "none": F = log p, the plausibility constraint alone (another control). "flat" and "sharp" are
            controls that read no layer either: they make the plausible set uniform, or sharpen it with a temperature of 0.5.
            The set keeps its mass, and all other tokens keep their probabilities, as with `scores="distribution"`.
        seed: Seed of the random layers.

    Raises:
        ConfigError: A value is not allowed, or the recipe uses a setting of DoLa with another method.

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
            given.remove("premature")  # allowed: a layer's own logits, with the layer drawn instead of chosen
        if given and isinstance(self.dola, MethodConfig) and not isinstance(self.dola, DoLaConfig):
            raise ConfigError(
                f"{given[0]}={getattr(self, given[0])!r} works with DoLa only; the method here is {self.dola.method!r}.",
                hint=f"leave {given[0]} out; the score is then under the distribution that decoding samples from",
            )
        if self.keeps_mass and self.softmax != "masked":
            raise ConfigError(
                f'softmax={self.softmax!r} needs scores="contrast": a distribution is normalized already.',
                hint='leave softmax out, or use scores="contrast"',
            )

    @property
    def constrained(self) -> bool:
        """Whether DoLa's plausible set excludes any token."""
        return isinstance(self.dola, DoLaConfig) and self.dola.relative_top > 0

    @property
    def keeps_mass(self) -> bool:
        """Whether the plausible set keeps the mass that the model gives it, as with `scores="distribution"`."""
        return isinstance(self.dola, DoLaConfig) and (self.dola.scores == "distribution" or self.premature in ("flat", "sharp"))

    @property
    def sums(self) -> set[tuple[float, float]]:
        """The sets over which F is normalized: for each, the threshold of its tokens and the strength of F."""
        if not isinstance(self.dola, DoLaConfig):
            return set()
        tops = {self.dola.relative_top, *([0.0] if self.softmax == "full" else [])}
        return {(top, self.dola.strength) for top in tops}

    @classmethod
    def reference(cls, layers: str | Sequence[int], *, relative_top: float, post_softmax: bool) -> Recipe:
        """The reference's recipe, with the names of its arguments. The paper's runs differ in these."""
        config = replace(DoLaConfig.reference(layers), relative_top=relative_top)
        return cls(config, softmax="full" if post_softmax else "none")

    @classmethod
    def truthfulqa(cls, layers: str | Sequence[int] = "high") -> Recipe:
        """The reference's recipe for TruthfulQA-MC, used for the paper's table: no normalization, no constraint."""
        return cls.reference(layers, relative_top=0.0, post_softmax=False)

    @classmethod
    def factor(cls, layers: str | Sequence[int] = "low") -> Recipe:
        """The reference's recipe for FACTOR: normalized over the whole vocabulary, then -1000 for implausible tokens."""
        return cls.reference(layers, relative_top=0.1, post_softmax=True)
