"""Score given tokens under many recipes, with one read of each layer.

At one position a recipe needs only a few numbers from a layer j: its divergence from the mature layer, log q_j of the token,
and the normalizer of F. So the layers are read out one after the other and only these numbers are kept. The premature layer is
chosen from them at the end. Memory holds the mature distribution and that of one layer, whatever the number of layers and
recipes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dola import native
from dola.decoding.candidates import Captured
from dola.decoding.step import chunk_rows
from dola.errors import ConfigError
from dola.lens.belongs import maps_of
from dola.lens.maps import Maps
from dola.methods.config import DoLaConfig, MethodConfig
from dola.methods.contrast import LARGEST_SCORE, gain, threshold
from dola.methods.divergences import DIVERGENCES
from dola.methods.floors import floor
from dola.methods.registry import method_of
from dola.methods.vocabulary import WHOLE, wide
from dola.model.anatomy import Anatomy
from dola.scoring.recipe import POWERS, Recipe

ReadAs = tuple[bool, bool, str | None]
"""How premature layers are read: whether they pass the final norm, whether they skip the logit transform, and the lens."""


@dataclass
class TokenScores:
    """One recipe's scores of n tokens.

    Attributes:
        score: Score of each token in nats, float32 or better [n].
        plausible: Whether the token was in the plausible set, bool [n].
        greedy: Whether no token scores higher, bool [n].
        layer: The premature layer that was contrasted, int64 [n]; -1 if none was.
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
        self._maps = self._lenses()
        self._configs: dict[ReadAs, DoLaConfig] = {}
        self._needs: dict[tuple[ReadAs, int], _Need] = {}
        for name, layers in self.candidates.items():
            if not isinstance(config := recipes[name].dola, DoLaConfig):
                continue
            self._configs[read_as(config)] = config
            for layer in layers:
                self._needs.setdefault((read_as(config), layer), _Need()).add(recipes[name], len(layers))

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
        size = chunk_rows(head.device.type, self.anatomy.vocabulary)
        parts = []
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            states = {layer: of_layer[rows] for layer, of_layer in hidden.items()}
            parts.append(self._score(states, {name: numbers[rows] for name, numbers in uniform.items()}, tokens[rows]))
        return {name: _joined([part[name] for part in parts]) for name in self.recipes}

    def _score(self, hidden: Mapping[int, Tensor], uniform: Mapping[str, Tensor], tokens: Tensor) -> dict[str, TokenScores]:
        tops = {recipe.dola.relative_top for recipe in self.recipes.values() if isinstance(recipe.dola, DoLaConfig)}
        logits = self.anatomy.readout(hidden[self.anatomy.num_layers])
        mature = _Mature(logits, tokens.to(logits.device), tops)
        read = {
            (way, layer): mature.compare(self._logits(hidden[layer], way, layer), need)
            for (way, layer), need in self._needs.items()
        }
        found = {}
        for name, recipe in self.recipes.items():
            if recipe.dola is None or isinstance(recipe.dola, DoLaConfig):
                found[name] = self._apply(name, recipe, recipe.dola, mature, read, uniform.get(name))
            else:
                found[name] = self._by_scores(name, recipe.dola, mature, hidden, uniform.get(name))
        return found

    def _by_scores(
        self, name: str, config: MethodConfig, mature: _Mature, hidden: Mapping[int, Tensor], uniform: Tensor | None
    ) -> TokenScores:
        """Scores of any method, computed as in decoding, some positions at a time.

        If numbers in [0, 1) are given, the scores are the logits of the candidates that these choose.
        """
        method, layers, tokens = method_of(config), self.candidates[name], mature.tokens
        size = chunk_rows(tokens.device.type, (len(layers) + 1) * mature.logits.shape[-1])
        parts = []
        for start in range(0, len(tokens), size):
            rows = slice(start, start + size)
            logits, mine = mature.logits[rows], tokens[rows][:, None]
            states = [hidden[layer][rows].to(logits.device) for layer in layers]
            maps = self._maps[config.lens]
            candidates = Captured(
                self.anatomy,
                config,
                states,
                layers=(*layers, self.anatomy.num_layers),
                maps=maps and maps.of(layers),
            )
            if uniform is None:
                scores, weights = method.decide(logits, candidates)
            else:
                scores, weights = _drawn(candidates, uniform[rows].to(logits.device))
            log_p, weights = scores.log_softmax(dim=-1), weights[:-1]
            most = torch.tensor(layers, device=tokens.device)[weights.argmax(dim=0)]
            parts.append(
                TokenScores(
                    score=log_p.gather(-1, mine)[:, 0],
                    plausible=method.support(logits).gather(-1, mine)[:, 0],
                    greedy=log_p.argmax(dim=-1) == mine[:, 0],
                    layer=most.masked_fill((weights == 0).all(dim=0), -1),
                )
            )
        return _joined(parts)

    def _logits(self, hidden: Tensor, way: ReadAs, layer: int) -> Tensor:
        config = self._configs[way]
        maps = self._maps[config.lens]
        return self.anatomy.premature(hidden, config, maps and maps.of([layer]))

    def _apply(
        self,
        name: str,
        recipe: Recipe,
        config: DoLaConfig | None,
        mature: _Mature,
        read: Mapping[tuple[ReadAs, int], _Compared],
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
            layers, way = self.candidates[name], read_as(config)
            columns = [read[way, layer] for layer in layers]
            chosen = _chosen(recipe, config, columns, mature.tokens, uniform)
            layer = torch.tensor(layers, device=none.device)[chosen]
            gained = gain(mature.log_p_token, _pick([column.log_q_token for column in columns], chosen), strength)
            greedy = gained >= _pick([column.over[top, strength].largest for column in columns], chosen)
            log_z = _pick([column.over[over, strength].log_sum for column in columns], chosen)
        inside = mature.inside[top]
        return TokenScores(_values(recipe, config, mature, gained, log_z), inside, inside & greedy, layer)


@dataclass
class _Need:
    """What recipes need from one layer: divergences by name, and F over plausible sets by (threshold, strength)."""

    divergences: set[str] = field(default_factory=set)
    gains: set[tuple[float, float]] = field(default_factory=set)

    def add(self, recipe: Recipe, candidates: int) -> None:
        assert isinstance(recipe.dola, DoLaConfig)
        if candidates > 1 and recipe.premature == "divergent":
            self.divergences.add(recipe.dola.divergence)
        tops = {recipe.dola.relative_top, *([0.0] if recipe.softmax == "full" else [])}
        self.gains |= {(top, recipe.dola.strength) for top in tops}


@dataclass
class _Compared:
    """One layer compared with the mature one at n positions: divergences, log q of the token, and F over plausible sets by
    (threshold, strength)."""

    divergence: dict[str, Tensor]
    log_q_token: Tensor
    over: dict[tuple[float, float], _Over]


@dataclass
class _Over:
    """Log sum exp and largest of the values over a set of tokens, at each position [n]."""

    log_sum: Tensor
    largest: Tensor


class _Mature:
    """The mature distribution at n positions, [n, V], and the scores of the given tokens [n] under it."""

    def __init__(self, logits: Tensor, tokens: Tensor, tops: set[float]) -> None:
        self.logits, self.tokens = logits, tokens
        self.log_z = native.log_z(logits)
        self.log_p = wide(logits) - self.log_z[:, None]
        self._token_places = torch.arange(len(tokens), device=tokens.device), tokens
        self.log_p_token = self.log_p[self._token_places]
        best = self.log_p.amax(dim=-1)
        least = {top: threshold(best, top) for top in tops}
        self.greedy = self.log_p.argmax(dim=-1) == tokens
        self.inside = {top: self.log_p_token >= least[top] for top in tops}
        self._plausible = {top: (self.log_p >= least[top][:, None]).nonzero(as_tuple=True) for top in tops if top > 0}

    def compare(self, logits: Tensor, need: _Need) -> _Compared:
        """Compute what `need` lists for a layer with `logits` [n, V]."""
        strengths = {strength for top, strength in need.gains if top == 0}
        whole = compare_whole(self.logits, self.log_z, self.log_p, logits, need.divergences, strengths=strengths)

        def log_q(places: tuple[Tensor, ...]) -> Tensor:
            return logits[places].to(self.log_p.dtype) - whole.log_z[places[0]]

        over = {(0.0, strength): _Over(*found) for strength, found in whole.gains.items()}
        for top, strength in need.gains:
            if top > 0:
                places = self._plausible[top]
                over[top, strength] = self._by_row(gain(self.log_p[places], log_q(places), strength), top)
        return _Compared(whole.divergence, log_q(self._token_places), over)

    def log_mass(self, top: float, power: float = 1.0) -> Tensor:
        """Log of the plausible set's mature probability, [n], or of the sum of a power of its tokens' probabilities."""
        if top > 0:
            return self._by_row(power * self.log_p[self._plausible[top]], top).log_sum
        if power == 1:
            return torch.zeros_like(self.log_p_token)
        return (power * self.log_p.clamp(min=-LARGEST_SCORE)).logsumexp(dim=-1)  # 0 * -inf is NaN

    def _by_row(self, values: Tensor, top: float) -> _Over:
        """Log sum exp and largest of `values`, given at the plausible tokens, for each row."""
        rows = self._plausible[top][0]
        largest = values.new_full((len(self.tokens),), -math.inf).scatter_reduce(0, rows, values, "amax")
        shares = torch.zeros_like(largest).index_add(0, rows, (values - largest[rows]).exp())
        return _Over(largest + shares.log(), largest)


@dataclass
class Whole:
    """The comparison of a layer's rows with the mature ones over the whole vocabulary, [n] each.

    Attributes:
        log_z: log sum exp of the layer's logits.
        divergence: Divergences that order the candidates, by name.
        gains: Log sum exp of F over the vocabulary, and the largest F, by strength.
    """

    log_z: Tensor
    divergence: dict[str, Tensor]
    gains: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict)


def compare_whole(
    mature: Tensor,
    log_z: Tensor,
    log_p: Tensor,
    logits: Tensor,
    divergences: set[str],
    *,
    strengths: Collection[float] = (),
) -> Whole:
    """Compare a layer's logits [n, V] with the mature ones over the whole vocabulary, with the kernels or with torch.

    Args:
        mature: The mature logits [n, V].
        log_z, log_p: Log sum exp [n] and log_softmax [n, V] of the mature logits.
        logits: The layer's logits [n, V].
        divergences: The divergences to compute, keys of DIVERGENCES.
        strengths: The strengths to compute F for.
    """
    if native.compares(mature, logits) and divergences <= native.DIVERGENCES:
        return _by_kernel(mature, log_z, logits, divergences, strengths)
    values = logits.to(log_p.dtype)
    found = Whole(values.logsumexp(dim=-1), {})
    log_q = values - found.log_z[:, None]
    for name in divergences:
        found.divergence[name] = DIVERGENCES[name](log_p, log_q, WHOLE)
    for strength in strengths:
        gained = gain(log_p, log_q, strength)
        found.gains[strength] = gained.logsumexp(dim=-1), gained.amax(dim=-1)
    return found


def _by_kernel(mature: Tensor, log_z: Tensor, logits: Tensor, divergences: set[str], strengths: Collection[float]) -> Whole:
    """`compare_whole` with the kernel: one pass for divergences and the first strength, then one for each further strength."""
    found: Whole | None = None
    asked: list[float | None] = [*strengths] if strengths else [None]
    for strength in asked:
        first = divergences if found is None else set()
        jsd, reference, gains = "jsd" in first, "reference" in first, strength is not None
        at = min(strength or 0.0, LARGEST_SCORE)
        read = native.compare(mature, log_z, logits, jsd=jsd, reference=reference, gains=gains, strength=at)
        if found is None:
            by_name = {"jsd": read.jsd, "reference": read.reference}
            found = Whole(read.log_z, {name: value for name, value in by_name.items() if value is not None})
        if strength is not None and read.gain_log_z is not None and read.gain_largest is not None:
            found.gains[strength] = read.gain_log_z, read.gain_largest
    assert found is not None
    return found


def _drawn(candidates: Captured, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Logits [n, V] of the candidates that numbers in [0, 1) choose, and weights [K+1, n], 1 for each chosen candidate."""
    chosen = _drawn_index(uniform, len(candidates))
    scores = torch.cat([candidates.logits(k, [row]) for row, k in enumerate(chosen.tolist())])
    weights = torch.zeros(len(candidates) + 1, len(chosen), device=chosen.device)
    return wide(scores), weights.scatter_(0, chosen[None], 1)


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


def read_as(config: MethodConfig) -> ReadAs:
    """How a configuration's premature layers are read out. Configurations with the same value share a read."""
    return config.final_norm, config.raw_head, config.lens


def _chosen(recipe: Recipe, config: DoLaConfig, columns: list[_Compared], tokens: Tensor, uniform: Tensor | None) -> Tensor:
    """Which candidate is contrasted at each of n positions."""
    if recipe.premature == "random":
        assert uniform is not None
        return _drawn_index(uniform.to(tokens.device), len(columns))
    if len(columns) == 1:
        return torch.zeros_like(tokens)
    return torch.stack([column.divergence[config.divergence] for column in columns]).argmax(dim=0)


def _values(recipe: Recipe, config: DoLaConfig, mature: _Mature, gained: Tensor, log_z: Tensor) -> Tensor:
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
