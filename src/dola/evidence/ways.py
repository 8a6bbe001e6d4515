"""The ways that an evaluation compares: vanilla, DoLa, and controls that show the source of a difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.layers import candidate_layers, spelled
from dola.methods.registry import with_settings
from dola.scoring.recipe import Recipe
from dola.tasks import ChoiceTask

VANILLA = "vanilla"
STATIC = "static, held out"
LENGTH = "length alone"
AS_DECODED = "scored by the probabilities that it decodes with"
"""What a scored row shows: `Way.description`."""
_WHERE = {"low": "of the lower half", "high": "of the upper half", "all": "below the last"}
RANDOM = "a candidate layer drawn at random for each token"
LENGTH_NATS = 10.0
"""The length-only scorer's score of each token, in nats. MC2 depends on it: on TruthfulQA it is 61.0 at 1, and 63.9 at 10 and
above, where the longest answer has all the mass."""


class Role(Enum):
    """The purpose of a way in a report.

    Attributes:
        VANILLA: The model without DoLa, the baseline of all comparisons.
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
        """Whether it is a control, which explains the others and is not proposed for use."""
        return self in (Role.LENGTH, Role.PENALTY, Role.CONTROL)

    @property
    def judged(self) -> bool:
        """Whether it gets a verdict: it is proposed for use, so it belongs to the family."""
        return self in (Role.METHOD, Role.STATIC)


@dataclass(frozen=True)
class Way:
    """One way to score continuations or to generate.

    Attributes:
        name: Its name in reports.
        description: One line on what it shows.
        recipe: How continuations are scored or text is generated; None for a way that is computed from other scores.
        repetition_penalty: Repetition penalty of generated text.
        role: Its purpose in a report.
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
    """The name of the way that scores with one fixed layer."""
    return f"layer {layer}"


def choice_ways(
    task: ChoiceTask, own: MethodConfig, *, seed: int = 0, more: Sequence[Way] = (), standard: bool = True
) -> list[Way]:
    """The ways to score a multiple-choice task.

    Args:
        task: The task; its paper settings say which recipe of the reference to add.
        own: Settings of the DoLa rows; its layers get their own row unless they are "low" or "high".
        seed: Seed of the random layers.
        more: Further rows.
        standard: Whether to include the usual rows; without them the rows are vanilla, `more`, and the control of length.
    """
    if not standard:
        return [_vanilla(), *more, _length()]
    if not isinstance(own, DoLaConfig):
        return [
            _vanilla(),
            Way(own.method, AS_DECODED, Recipe(own)),
            *(_layer_controls(own, seed) if own.chooses else []),
            *more,
            _length(),
        ]
    paper = task.paper
    bucket = paper.layers
    config = replace(own, layers=bucket)
    reference = Recipe.reference(bucket, post_softmax=paper.post_softmax, **paper.settings)
    other = replace(reference, softmax="full" if reference.softmax == "none" else "none")

    in_paper = bool(task.homepage)  # not so of the user's own questions

    def control(name: str, description: str, recipe: Recipe) -> Way:
        return Way(name, description, recipe, role=Role.CONTROL)

    return [
        _vanilla(),
        *_dola_rows(own),
        Way(STATIC, "one fixed layer, chosen on the other half of the items", role=Role.STATIC),
        *([Way(_reference(bucket, reference), "the paper's recipe", reference)] if in_paper else []),
        *more,
        *([control(_reference(bucket, other), "the paper's recipe with the other normalization", other)] if in_paper else []),
        control(f"DoLa {bucket}, not normalized", "the contrast itself as the score, which favors long answers",
                Recipe(replace(config, scores="contrast"), softmax="none")),
        control(f"random layer of {bucket}", RANDOM, Recipe(config, premature="random", seed=seed)),
        *_constraint(config),
        _length(),
    ]  # fmt: skip


def _layer_controls(own: MethodConfig, seed: int) -> list[Way]:
    """Controls of a method that chooses a layer: what a layer does that nobody has chosen."""
    below = with_settings(own, layers="last:1")
    return [
        Way("the layer below the last", "always, whatever it says", Recipe(below, premature="random"), role=Role.CONTROL),
        Way(
            "random layer",
            "one of the window, drawn for each token",
            Recipe(own, premature="random", seed=seed),
            role=Role.CONTROL,
        ),
    ]


def harness_choice_ways(own: MethodConfig, *, seed: int, more: Sequence[Way] = (), standard: bool = True) -> list[Way]:
    """The ways to score a task of lm-evaluation-harness, which has its own prompts and counts no tokens for us."""
    if not standard or not isinstance(own, DoLaConfig):
        return [_vanilla(), *([] if isinstance(own, DoLaConfig) else [Way(own.method, "the method", Recipe(own))]), *more]
    random = Recipe(replace(own, layers="high"), premature="random", seed=seed)
    return [
        _vanilla(),
        *_dola_rows(own),
        *more,
        Way("random layer of high", RANDOM, random, role=Role.CONTROL),
        *_constraint(own),
    ]


def _constraint(own: DoLaConfig) -> list[Way]:
    """The plausibility constraint alone, where it differs from vanilla: tokens are left out, and their mass with them."""
    recipe = Recipe(own, premature="none")
    if not recipe.constrained or recipe.keeps_mass:
        return []
    return [Way("constraint alone", "the last layer's scores on the plausible tokens, no contrast", recipe, role=Role.CONTROL)]


def _dola_rows(own: DoLaConfig) -> list[Way]:
    """DoLa with each bucket, and with layers of its own."""
    return [Way(f"DoLa {spelled(layers)}", AS_DECODED, Recipe(replace(own, layers=layers))) for layers in _buckets(own)]


def _vanilla() -> Way:
    return Way(VANILLA, "the model's own log-likelihood", Recipe(None), role=Role.VANILLA)


def _length() -> Way:
    description = f"a scorer that only counts tokens: {LENGTH_NATS:g} nats for each, ties broken at random"
    return Way(LENGTH, description, role=Role.LENGTH)


def generation_ways(own: MethodConfig, penalty: float, *, more: Sequence[Way] = (), standard: bool = True) -> list[Way]:
    """The ways to generate: plain decoding with and without DoLa's repetition penalty, DoLa or another method, and `more`."""
    ways = [Way(VANILLA, "the model's own distribution, no repetition penalty", Recipe(None), role=Role.VANILLA)]
    if penalty != 1.0:
        name = f"{VANILLA}, penalty {penalty:g}"
        ways.append(Way(name, "what the penalty does by itself", Recipe(None), penalty, Role.PENALTY))
    further = [replace(way, repetition_penalty=penalty) for way in more]
    if not standard:
        return [*ways, *further]
    if not isinstance(own, DoLaConfig):
        return [*ways, Way(own.method, f"the method, repetition penalty {penalty:g}", Recipe(own), penalty), *further]
    for layers in _buckets(own):
        where = _WHERE.get(str(layers), f"out of {spelled(layers)}")
        description = f"the contrast with a layer {where}, repetition penalty {penalty:g}"
        ways.append(Way(f"DoLa {spelled(layers)}", description, Recipe(replace(own, layers=layers)), penalty))
    return [*ways, *further]


def _buckets(own: DoLaConfig) -> list[str | Sequence[int]]:
    return ["low", "high", *([] if own.layers in ("low", "high") else [own.layers])]


def _reference(bucket: str, recipe: Recipe) -> str:
    return f"reference {bucket}, {'normalized' if recipe.softmax == 'full' else 'not normalized'}"


def static_layers(num_layers: int, *, tied: bool) -> tuple[int, ...]:
    """The fixed layers to try: the candidates of both buckets."""
    return tuple(sorted({j for bucket in ("low", "high") for j in candidate_layers(bucket, num_layers, tied=tied)}))
