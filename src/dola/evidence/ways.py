"""What an evaluation compares: DoLa, what it is compared with, and controls that tell where a difference comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import candidate_layers
from dola.scoring.recipe import Recipe
from dola.tasks import ChoiceTask

VANILLA = "vanilla"
STATIC = "static, held out"
LENGTH = "length alone"
LENGTH_NATS = 10.0
"""What the length-only scorer gives each token, in nats. MC2 depends on it: on TruthfulQA it is 61.0 at 1, and 63.9 at 10 and
above, where the longest answer has all the mass."""


class Role(Enum):
    """What a way is in a report for.

    Attributes:
        VANILLA: The model without DoLa, with which the others are compared.
        METHOD: A way that is proposed for use.
        STATIC: The same with one fixed layer, chosen on held-out items.
        LENGTH: A control that counts tokens.
        PENALTY: A control: vanilla with the repetition penalty that DoLa has.
        CONTROL: Another control.
    """

    VANILLA = "vanilla"
    METHOD = "method"
    STATIC = "static"
    LENGTH = "length"
    PENALTY = "penalty"
    CONTROL = "control"

    @property
    def control(self) -> bool:
        """Whether it explains the others and is not proposed for use."""
        return self in (Role.LENGTH, Role.PENALTY, Role.CONTROL)


@dataclass(frozen=True)
class Way:
    """One way to score continuations or to generate.

    Attributes:
        name: Its name in reports.
        description: One line on what it shows.
        recipe: How continuations are scored, or which DoLa generates; None for what is made of other scores.
        repetition_penalty: Repetition penalty of generated text.
        role: What it is in a report for.
    """

    name: str
    description: str
    recipe: Recipe | None = None
    repetition_penalty: float = 1.0
    role: Role = Role.METHOD

    @property
    def control(self) -> bool:
        """Whether it explains the others and is not proposed for use."""
        return self.role.control


def static_name(layer: int) -> str:
    """The name under which one fixed layer is scored."""
    return f"layer {layer}"


def choice_ways(task: ChoiceTask, own: MethodConfig, *, seed: int = 0) -> list[Way]:
    """The ways to score a multiple-choice task.

    Args:
        task: The task; its paper settings say which recipe of the reference stands beside.
        own: Threshold, divergence and final norm of the DoLa rows; its layers have a row of their own unless they are "low" or
            "high".
        seed: Of the random layers.
    """
    if not isinstance(own, DoLaConfig):
        return [
            Way(VANILLA, "the model's own log-likelihood", Recipe(None), role=Role.VANILLA),
            Way(own.method, "the distribution that decoding draws from", Recipe(own)),
            _length(),
        ]
    paper = task.paper
    bucket = paper.layers
    config = replace(own, layers=bucket)
    reference = Recipe.reference(bucket, post_softmax=paper.post_softmax, **paper.settings)
    other = replace(reference, softmax="full" if reference.softmax == "none" else "none")

    def control(name: str, description: str, recipe: Recipe) -> Way:
        return Way(name, description, recipe, role=Role.CONTROL)

    return [
        Way(VANILLA, "the model's own log-likelihood", Recipe(None), role=Role.VANILLA),
        *(Way(f"DoLa {_words(layers)}", "the distribution that decoding draws from", Recipe(replace(own, layers=layers)))
          for layers in _buckets(own)),
        Way(STATIC, "one fixed layer, chosen on the other half of the items", role=Role.STATIC),
        Way(_reference(bucket, reference), "the paper's recipe", reference),
        control(_reference(bucket, other), "the paper's recipe but for the normalisation", other),
        control(f"DoLa {bucket}, not normalised", "F as it is: it favours long answers", Recipe(config, softmax="none")),
        control(f"random layer of {bucket}", "a candidate drawn for each token", Recipe(config, premature="random", seed=seed)),
        *([control("constraint alone", "the mature scores on the plausible set, no contrast", Recipe(config, premature="none"))]
          if Recipe(own).constrained else []),  # without one it is vanilla
        _length(),
    ]  # fmt: skip


def _length() -> Way:
    description = f"a scorer that knows no language: {LENGTH_NATS:g} nats for each token, ties broken by chance"
    return Way(LENGTH, description, role=Role.LENGTH)


def generation_ways(own: MethodConfig, penalty: float) -> list[Way]:
    """The ways to generate: plain with and without the repetition penalty that DoLa has, and DoLa or another method."""
    ways = [Way(VANILLA, "the model's own distribution, no repetition penalty", Recipe(None), role=Role.VANILLA)]
    if penalty != 1.0:
        name = f"{VANILLA}, penalty {penalty:g}"
        ways.append(Way(name, "what the penalty does by itself", Recipe(None), penalty, Role.PENALTY))
    if not isinstance(own, DoLaConfig):
        return [*ways, Way(own.method, f"the method, penalty {penalty:g}", Recipe(own), penalty)]
    for layers in _buckets(own):
        description = f"the contrast, penalty {penalty:g}"
        ways.append(Way(f"DoLa {_words(layers)}", description, Recipe(replace(own, layers=layers)), penalty))
    return ways


def _buckets(own: DoLaConfig) -> list[str | Sequence[int]]:
    return ["low", "high", *([] if own.layers in ("low", "high") else [own.layers])]


def _words(layers: str | Sequence[int]) -> str:
    return layers if isinstance(layers, str) else ",".join(map(str, layers))


def _reference(bucket: str, recipe: Recipe) -> str:
    return f"reference {bucket}, {'normalised' if recipe.softmax == 'full' else 'not normalised'}"


def static_layers(num_layers: int, *, tied: bool) -> tuple[int, ...]:
    """The fixed layers that are tried: the candidates of both buckets."""
    return tuple(sorted({j for bucket in ("low", "high") for j in candidate_layers(bucket, num_layers, tied=tied)}))
