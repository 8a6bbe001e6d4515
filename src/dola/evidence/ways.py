"""What an evaluation compares: DoLa, what it is compared with, and controls that tell where a difference comes from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dola.config import DoLaConfig
from dola.layers import candidate_layers
from dola.recipe import Recipe
from dola.tasks import Task

VANILLA = "vanilla"
STATIC = "static, held out"
LENGTH = "length alone"


@dataclass(frozen=True)
class Way:
    """One way to score continuations or to generate.

    Attributes:
        name: Its name in reports.
        description: One line on what it shows.
        recipe: How continuations are scored; for the controls that score nothing by themselves, None.
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


def choice_ways(task: Task, own: DoLaConfig) -> list[Way]:
    """The ways to score a multiple-choice task.

    Args:
        task: The task; its paper settings say which recipe of the reference stands beside.
        own: Threshold, divergence and final norm of the DoLa rows; its layers are a row of their own unless they are a bucket.
    """
    paper = task.paper
    bucket = replace(own, layers=paper.layers)
    ways = [Way(VANILLA, "the model's own log-likelihood", Recipe(None))]
    ways += [Way(f"DoLa {layers}", "what decoding with DoLa would draw from", Recipe(replace(own, layers=layers)))
             for layers in ("low", "high")]  # fmt: skip
    if own.layers not in ("low", "high"):
        named = own.layers if isinstance(own.layers, str) else ",".join(map(str, own.layers))
        ways.append(Way(f"DoLa {named}", "the layers that were asked for", Recipe(own)))
    ways.append(Way(STATIC, "one fixed layer, chosen on the other half of the items"))
    ways.append(
        Way(f"DoLa {paper.layers}, not normalised", "F as it is: it favours long answers", Recipe(bucket, softmax="none"),
            control=True)
    )  # fmt: skip
    reference = Recipe.truthfulqa(paper.layers) if paper.relative_top == 0 else Recipe.factor(paper.layers)
    other = replace(reference, softmax="full" if reference.softmax == "none" else "none")
    for recipe in (reference, other):
        said = "normalised" if recipe.softmax == "full" else "not normalised"
        mark = "the paper's recipe" if recipe is reference else "the paper's recipe but for the normalisation"
        ways.append(Way(f"reference {paper.layers}, {said}", mark, recipe, control=recipe is not reference))
    ways.append(
        Way(f"random layer of {paper.layers}", "a candidate drawn for each token", Recipe(bucket, premature="random"), control=True)
    )
    if own.relative_top > 0:
        ways.append(
            Way("constraint alone", "no contrast: the mature scores on the plausible set", Recipe(own, premature="none"), control=True)
        )
    ways.append(Way(LENGTH, "a scorer that knows no language: the number of tokens", control=True))
    return ways


def generation_ways(own: DoLaConfig, penalty: float) -> list[Way]:
    """The ways to generate: plain with and without the repetition penalty that DoLa has, and DoLa."""
    ways = [Way(VANILLA, "greedy decoding, no repetition penalty", Recipe(None))]
    if penalty != 1.0:
        ways.append(
            Way(f"vanilla, penalty {penalty:g}", "what the penalty does by itself", Recipe(None), penalty, control=True)
        )
    buckets = ("low", "high") if own.layers in ("low", "high") else ("low", "high", own.layers)
    for layers in buckets:
        named = layers if isinstance(layers, str) else ",".join(map(str, layers))
        ways.append(Way(f"DoLa {named}", f"greedy on the contrast, penalty {penalty:g}", Recipe(replace(own, layers=layers)), penalty))
    return ways


def static_layers(num_layers: int, *, tied: bool) -> tuple[int, ...]:
    """The fixed layers that are tried: the candidates of both buckets."""
    return tuple(sorted({j for bucket in ("low", "high") for j in candidate_layers(bucket, num_layers, tied=tied)}))
