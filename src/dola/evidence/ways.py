"""What an evaluation compares: DoLa, what it is compared with, and controls that tell where a difference comes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dola.methods.config import DoLaConfig
from dola.methods.layers import candidate_layers
from dola.scoring.recipe import Recipe
from dola.tasks import Task

VANILLA = "vanilla"
STATIC = "static, held out"
LENGTH = "length alone"
LENGTH_NATS = 10.0
"""What the length-only scorer gives each token, in nats. MC2 depends on it: on TruthfulQA it is 61.0 at 1, and 63.9 at 10 and
above, where the longest answer has all the mass."""


@dataclass(frozen=True)
class Way:
    """One way to score continuations or to generate.

    Attributes:
        name: Its name in reports.
        description: One line on what it shows.
        recipe: How continuations are scored, or which DoLa generates; None for what is made of other scores.
        repetition_penalty: Of generated text.
        control: Whether it is there to explain the others, not to be used.
    """

    name: str
    description: str
    recipe: Recipe | None = None
    repetition_penalty: float = 1.0
    control: bool = False


def static_name(layer: int) -> str:
    """The name under which one fixed layer is scored."""
    return f"layer {layer}"


def is_static(name: str) -> bool:
    """Whether a name is one of `static_name`."""
    return name.startswith("layer ")


def is_penalised(name: str) -> bool:
    """Whether a name is that of vanilla with a repetition penalty."""
    return name.startswith(f"{VANILLA}, penalty ")


def choice_ways(task: Task, own: DoLaConfig, *, seed: int = 0) -> list[Way]:
    """The ways to score a multiple-choice task.

    Args:
        task: The task; its paper settings say which recipe of the reference stands beside.
        own: Threshold, divergence and final norm of the DoLa rows; its layers have a row of their own unless they are "low" or
            "high".
        seed: Of the random layers.
    """
    bucket = task.paper.layers
    config = replace(own, layers=bucket)
    reference = Recipe.truthfulqa(bucket) if task.paper.relative_top == 0 else Recipe.factor(bucket)
    other = replace(reference, softmax="full" if reference.softmax == "none" else "none")

    def control(name: str, description: str, recipe: Recipe | None = None) -> Way:
        return Way(name, description, recipe, control=True)

    ways = [
        Way(VANILLA, "the model's own log-likelihood", Recipe(None)),
        *(Way(f"DoLa {_words(layers)}", "the distribution that decoding draws from", Recipe(replace(own, layers=layers)))
          for layers in _buckets(own)),
        Way(STATIC, "one fixed layer, chosen on the other half of the items"),
        Way(_reference(bucket, reference), "the paper's recipe", reference),
        control(_reference(bucket, other), "the paper's recipe but for the normalisation", other),
        control(f"DoLa {bucket}, not normalised", "F as it is: it favours long answers", Recipe(config, softmax="none")),
        control(f"random layer of {bucket}", "a candidate drawn for each token", Recipe(config, premature="random", seed=seed)),
        control("constraint alone", "the mature scores on the plausible set, no contrast", Recipe(config, premature="none")),
        control(LENGTH, f"a scorer that knows no language: {LENGTH_NATS:g} nats for each token, ties broken by chance"),
    ]  # fmt: skip
    return [way for way in ways if way.name != "constraint alone" or own.relative_top > 0]  # without one it is vanilla


def generation_ways(own: DoLaConfig, penalty: float) -> list[Way]:
    """The ways to generate: plain with and without the repetition penalty that DoLa has, and DoLa."""
    ways = [Way(VANILLA, "the model's own distribution, no repetition penalty", Recipe(None))]
    if penalty != 1.0:
        name = f"{VANILLA}, penalty {penalty:g}"
        ways.append(Way(name, "what the penalty does by itself", Recipe(None), penalty, control=True))
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
