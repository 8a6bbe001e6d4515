"""Score given tokens under many recipes, with one read of each layer.

    residual streams -> reads.py: each distinct readout once -> comparing.py: a few numbers of each layer -> scores

At one position DoLa's recipes need only a few numbers from a layer j: its divergence from the mature layer, log q_j of the
token, and the normalizer of F. The premature layer is chosen from them at the end. Other methods get their layers' logits.
So many positions are read at a time that all their logits fit the limit of a decoding step, whatever the number of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dola import native
from dola.decoding.step import chunk_rows
from dola.errors import ConfigError
from dola.lens.belongs import maps_of
from dola.lens.maps import Maps
from dola.methods.config import DoLaConfig, MethodConfig, ReadAs
from dola.methods.contrast import gain
from dola.methods.floors import floor
from dola.methods.method import only_candidate
from dola.methods.registry import method_of
from dola.methods.vocabulary import wide
from dola.model.anatomy import Anatomy
from dola.scoring.comparing import Compared, Mature, Need
from dola.scoring.reads import Read, Reads
from dola.scoring.recipe import POWERS, Recipe


@dataclass
class TokenScores:
    """One recipe's scores of n tokens.

    Attributes:
        score: Score of each token in nats, float32 or better [n].
        plausible: Whether the token was in the plausible set, bool [n].
        greedy: Whether no token scores higher, bool [n].
        layer: The premature layer that was contrasted, or the only one that another method used, int64 [n]; -1 if none was.
    """

    score: Tensor
    plausible: Tensor
    greedy: Tensor
    layer: Tensor


class LayerScorer:
    """Scores tokens of one model under several recipes.

    Args:
        anatomy: The parts of the model.
        recipes: Recipes by name.

    Attributes:
        layers: All layers that any recipe reads, in ascending order, without the mature one.
        candidates: The candidate layers of each recipe.
    """

    def __init__(self, anatomy: Anatomy, recipes: Mapping[str, Recipe]) -> None:
        self.anatomy, self.recipes = anatomy, dict(recipes)
        for recipe in recipes.values():
            check_draws(recipe.dola)
        self.candidates: dict[str, tuple[int, ...]] = {
            name: anatomy.candidates(recipe.dola.layers)
            for name, recipe in recipes.items()
            if recipe.dola is not None and recipe.premature not in POWERS
        }
        self.layers = tuple(sorted(set().union(*self.candidates.values())))
        self._reads = Reads(anatomy, self.recipes, self.candidates, self._lenses())
        needs: dict[tuple[ReadAs, int], Need] = {}
        for name, layers in self.candidates.items():
            if isinstance(config := recipes[name].dola, DoLaConfig):
                for layer in layers:
                    needs.setdefault((config.read_as, layer), Need()).add(recipes[name], len(layers))
        self._needs = alike(needs)

    def _lenses(self) -> dict[str | None, Maps | None]:
        """The maps of each lens for the layers that recipes read through it. The key None means no lens."""
        layers: dict[str | None, set[int]] = {}
        configs: dict[str | None, MethodConfig] = {}
        for name, of_recipe in self.candidates.items():
            config = self.recipes[name].dola
            assert config is not None
            configs[config.lens] = config
            layers.setdefault(config.lens, set()).update(of_recipe)
        return {lens: maps_of(self.anatomy, config, sorted(layers[lens])) for lens, config in configs.items()}

    @torch.no_grad()
    def score(self, hidden: Mapping[int, Tensor], tokens: Tensor, uniform: Mapping[str, Tensor]) -> dict[str, TokenScores]:
        """Scores of n tokens.

        Args:
            hidden: Residual streams [n, d] of `layers` and N, at the positions before the tokens.
            tokens: The tokens, int64 [n].
            uniform: For each recipe with random layers, the numbers in [0, 1) that choose them, float [n].
        """
        head = hidden[self.anatomy.num_layers]
        if not len(tokens):
            return {name: _no_scores(head.device) for name in self.recipes}
        size = chunk_rows(head.device.type, self._reads.count * self.anatomy.vocabulary)
        parts = []
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            states = {layer: of_layer[rows] for layer, of_layer in hidden.items()}
            parts.append(self._score(states, {name: numbers[rows] for name, numbers in uniform.items()}, tokens[rows]))
        return {name: _joined([part[name] for part in parts]) for name in self.recipes}

    def _score(self, hidden: Mapping[int, Tensor], uniform: Mapping[str, Tensor], tokens: Tensor) -> dict[str, TokenScores]:
        tops = {recipe.dola.relative_top for recipe in self.recipes.values() if isinstance(recipe.dola, DoLaConfig)}
        read = self._reads.read(hidden)
        mature = Mature(read.mature, tokens.to(read.mature.device), tops)
        compared: dict[tuple[ReadAs, int], Compared] = {}
        for need, places in self._needs:
            compared.update(zip(places, mature.compare([read.of(*place) for place in places], need), strict=True))
        found = {}
        for name, recipe in self.recipes.items():
            if recipe.dola is None or isinstance(recipe.dola, DoLaConfig):
                found[name] = self._apply(name, recipe, recipe.dola, mature, compared, uniform.get(name))
            else:
                found[name] = self._by_scores(name, recipe.dola, mature, read, uniform.get(name))
        return found

    def _by_scores(self, name: str, config: MethodConfig, mature: Mature, read: Read, uniform: Tensor | None) -> TokenScores:
        """Scores of any method, computed as in decoding, some positions at a time.

        If numbers in [0, 1) are given, the scores are the logits of the candidates that these choose.
        """
        method, layers, tokens = method_of(config), self.candidates[name], mature.tokens
        unread = sum(not self._reads.shares(config, layer) for layer in layers)
        size = chunk_rows(tokens.device.type, (unread + 1) * mature.logits.shape[-1])
        parts = []
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            logits, mine = mature.logits[rows], tokens[rows][:, None]
            candidates = self._reads.candidates(name, read, rows)
            if uniform is None:
                scores, weights = method.decide(logits, candidates)
            else:
                chosen = _drawn_index(uniform[rows].to(logits.device), len(layers))
                scores = wide(candidates.drawn(chosen))
                weights = scores.new_zeros(len(layers) + 1, len(chosen)).scatter_(0, chosen[None], 1)
            of_token, chosen = scores.gather(-1, mine)[:, 0], only_candidate(weights)
            parts.append(
                TokenScores(
                    score=of_token - native.log_z(scores),
                    plausible=method.support(logits).gather(-1, mine)[:, 0],
                    greedy=scores.argmax(dim=-1) == mine[:, 0],
                    layer=torch.tensor(layers, device=tokens.device)[chosen].masked_fill(chosen < 0, -1),
                )
            )
        return _joined(parts)

    def _apply(
        self,
        name: str,
        recipe: Recipe,
        config: DoLaConfig | None,
        mature: Mature,
        compared: Mapping[tuple[ReadAs, int], Compared],
        uniform: Tensor | None,
    ) -> TokenScores:
        none = torch.full_like(mature.tokens, -1)
        if config is None:
            return TokenScores(mature.log_p_token, torch.ones_like(none, dtype=torch.bool), mature.greedy, none)
        top, strength = config.relative_top, config.strength
        over = 0.0 if recipe.softmax == "full" else top
        if recipe.premature in POWERS:
            power = POWERS[recipe.premature]
            layer, gained, log_z = none, power * mature.log_p_token, mature.log_mass(over, power)
            greedy = mature.greedy if power else torch.ones_like(mature.greedy)  # flat: all plausible tokens tie
        else:
            layers, way = self.candidates[name], config.read_as
            columns = [compared[way, layer] for layer in layers]
            chosen = _chosen(recipe, config, columns, mature.tokens, uniform)
            layer = torch.tensor(layers, device=none.device)[chosen]
            gained = gain(mature.log_p_token, _pick([column.log_q_token for column in columns], chosen), strength)
            greedy = gained >= _pick([column.over[top, strength].largest for column in columns], chosen)
            log_z = _pick([column.over[over, strength].log_sum for column in columns], chosen)
        inside = mature.inside[top]
        return TokenScores(_values(recipe, config, mature, gained, log_z), inside, inside & greedy, layer)


def _drawn_index(uniform: Tensor, count: int) -> Tensor:
    """Turn numbers in [0, 1) into indices 0 .. count - 1."""
    return (uniform * count).long().clamp(max=count - 1)  # 0.99999999 may round to 1


def check_draws(config: MethodConfig | None) -> None:
    """Refuse a method that draws at random, because a text's likelihood cannot depend on a draw.

    Raises:
        ConfigError: The method draws.
    """
    if config is not None and config.draws:
        raise ConfigError(
            f"The method {config.method!r} draws at each position whether it acts ({config.as_dict()}), so it has no "
            "log-likelihoods.",
            hint="score with probability=1",
        )


def alike(needs: Mapping[tuple[ReadAs, int], Need]) -> list[tuple[Need, list[tuple[ReadAs, int]]]]:
    """The layers that are needed for the same numbers, together."""
    found: list[tuple[Need, list[tuple[ReadAs, int]]]] = []
    for place, need in needs.items():
        places = next((places for other, places in found if other == need), None)
        if places is None:
            found.append((need, places := []))
        places.append(place)
    return found


def _chosen(recipe: Recipe, config: DoLaConfig, columns: list[Compared], tokens: Tensor, uniform: Tensor | None) -> Tensor:
    """Which candidate is contrasted at each of n positions."""
    if recipe.premature == "random":
        assert uniform is not None
        return _drawn_index(uniform.to(tokens.device), len(columns))
    if len(columns) == 1:
        return torch.zeros_like(tokens)
    return torch.stack([column.divergence[config.divergence] for column in columns]).argmax(dim=0)


def _values(recipe: Recipe, config: DoLaConfig, mature: Mature, gained: Tensor, log_z: Tensor) -> Tensor:
    """A recipe's scores of the tokens, from their F and the log sum exp of F over the set that normalizes it."""
    log_p, inside = mature.log_p_token, mature.inside[config.relative_top]
    if recipe.keeps_mass:
        own = config.strength == 0 and recipe.premature not in POWERS  # the model's own, without rounding
        shared_out = log_p if own or recipe.premature == "none" else gained - log_z + mature.log_mass(config.relative_top)
        return torch.where(inside, shared_out, log_p)
    if recipe.softmax == "masked":
        return torch.where(inside, gained, floor(log_p)) - log_z
    value = gained if recipe.softmax == "none" else gained - log_z
    return torch.where(inside, value, torch.tensor(recipe.floor).to(value))


def _pick(columns: list[Tensor], chosen: Tensor) -> Tensor:
    return torch.stack(columns).gather(0, chosen[None])[0]


def _joined(parts: list[TokenScores]) -> TokenScores:
    return TokenScores(
        *(torch.cat([getattr(part, name) for part in parts]) for name in ("score", "plausible", "greedy", "layer"))
    )


def _no_scores(device: torch.device) -> TokenScores:
    dtypes = (torch.float32, torch.bool, torch.bool, torch.int64)
    return TokenScores(*(torch.empty(0, dtype=dtype, device=device) for dtype in dtypes))
