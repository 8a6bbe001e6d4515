"""Likelihoods of all rows of a report on the harness from one pass over the model.

The harness asks each row the same questions, one row after the other. The first row's requests are scored under the recipes of
all rows, and the later rows are answered from memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from dola.scoring.recipe import Recipe
from dola.scoring.score import Scores, score

Tokens = Sequence[Sequence[int]]


class SharedScores:
    """The scores of some recipes, by what was asked.

    Args:
        recipes: The recipes of all rows that will ask.
    """

    def __init__(self, recipes: Sequence[Recipe] = ()) -> None:
        self._recipes = list(recipes)
        self._found: dict[str, Scores] = {}

    def scores(
        self, model: Any, contexts: Tokens, continuations: Sequence[Tokens], recipe: Recipe, *, progress: bool
    ) -> tuple[list[list[float]], list[list[bool]]]:
        """Log-likelihoods of continuations under a recipe, and whether greedy decoding generates them.

        Both are lists `[items][continuations]`.

        Raises:
            DolaError: See `dola.score`.
        """
        if recipe not in self._recipes:
            self._recipes.append(recipe)
            self._found.clear()
        name = str(self._recipes.index(recipe))
        asked = hashlib.sha256(repr((contexts, continuations)).encode()).hexdigest()
        if asked not in self._found:
            recipes = {str(number): each for number, each in enumerate(self._recipes)}
            self._found[asked] = score(model, None, contexts, continuations, recipes, progress=progress)
        scores = self._found[asked]
        return scores.values[name], scores.greedy[name]
