"""What recipes need of a layer's distribution beside the mature one: a few numbers for each position, whatever |V| is."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dola import native
from dola.methods.config import DoLaConfig
from dola.methods.contrast import LARGEST_SCORE, gain, threshold
from dola.methods.divergences import DIVERGENCES
from dola.methods.vocabulary import WHOLE, wide
from dola.scoring.recipe import Recipe


@dataclass
class Need:
    """What recipes need from one layer: divergences by name, and F over plausible sets by (threshold, strength)."""

    divergences: set[str] = field(default_factory=set)
    gains: set[tuple[float, float]] = field(default_factory=set)

    def add(self, recipe: Recipe, candidates: int) -> None:
        """Add what a recipe with that many candidates needs."""
        assert isinstance(recipe.dola, DoLaConfig)
        if candidates > 1 and recipe.premature == "divergent":
            self.divergences.add(recipe.dola.divergence)
        self.gains |= recipe.sums


@dataclass
class Over:
    """Log sum exp and largest of the values over a set of tokens, at each position [..., n]."""

    log_sum: Tensor
    largest: Tensor


@dataclass
class Compared:
    """One layer compared with the mature one at n positions: divergences, log q of the token, and F over plausible sets by
    (threshold, strength)."""

    divergence: dict[str, Tensor]
    log_q_token: Tensor
    over: dict[tuple[float, float], Over]


class Mature:
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

    def compare(self, layers: Sequence[Tensor], need: Need) -> list[Compared]:
        """Compute what `need` lists for K layers with logits [n, V] each."""
        strengths = {strength for top, strength in need.gains if top == 0}
        whole = compare_whole(self.logits, self.log_z, self.log_p, layers, need.divergences, strengths=strengths)

        def log_q(places: tuple[Tensor, ...]) -> Tensor:
            return torch.stack([logits[places] for logits in layers]).to(self.log_p.dtype) - whole.log_z[:, places[0]]

        over = {(0.0, strength): Over(*found) for strength, found in whole.gains.items()}
        for top in {top for top, _ in need.gains if top > 0}:
            places = self._plausible[top]
            log_p, log_qs = self.log_p[places], log_q(places)
            for strength in {strength for each, strength in need.gains if each == top}:
                over[top, strength] = self._by_row(gain(log_p, log_qs, strength), top)
        tokens = log_q(self._token_places)
        return [
            Compared(
                {name: of[k] for name, of in whole.divergence.items()},
                tokens[k],
                {key: Over(of.log_sum[k], of.largest[k]) for key, of in over.items()},
            )
            for k in range(len(layers))
        ]

    def log_mass(self, top: float, power: float = 1.0) -> Tensor:
        """Log of the plausible set's mature probability, [n], or of the sum of a power of its tokens' probabilities."""
        if top > 0:
            return self._by_row(power * self.log_p[self._plausible[top]], top).log_sum
        if power == 1:
            return torch.zeros_like(self.log_p_token)
        return (power * self.log_p.clamp(min=-LARGEST_SCORE)).logsumexp(dim=-1)  # 0 * -inf is NaN

    def _by_row(self, values: Tensor, top: float) -> Over:
        """Log sum exp and largest of `values` [..., P], given at the plausible tokens, for each row: [..., n]."""
        rows = self._plausible[top][0].expand(values.shape)
        largest = values.new_full((*values.shape[:-1], len(self.tokens)), -math.inf).scatter_reduce(-1, rows, values, "amax")
        shares = torch.zeros_like(largest).scatter_add(-1, rows, (values - largest.gather(-1, rows)).exp())
        return Over(largest + shares.log(), largest)


@dataclass
class Whole:
    """The comparison of K layers' rows with the mature ones over the whole vocabulary, [K, n] each.

    Attributes:
        log_z: log sum exp of the layers' logits.
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
    layers: Sequence[Tensor],
    divergences: Collection[str],
    *,
    strengths: Collection[float] = (),
) -> Whole:
    """Compare layers' logits [n, V] with the mature ones over the whole vocabulary, with the kernels or with torch.

    Args:
        mature: The mature logits [n, V].
        log_z, log_p: Log sum exp [n] and log_softmax [n, V] of the mature logits.
        layers: The logits of K layers, [n, V] each.
        divergences: The divergences to compute, keys of DIVERGENCES.
        strengths: The strengths to compute F for.
    """
    if all(native.compares(mature, logits) for logits in layers) and native.DIVERGENCES.issuperset(divergences):
        return _by_kernel(mature, log_z, layers, divergences, strengths)
    found = [_by_torch(log_p, logits, divergences, strengths) for logits in layers]

    def over(strength: float, part: int) -> Tensor:
        return torch.stack([each.gains[strength][part] for each in found])

    return Whole(
        torch.stack([each.log_z for each in found]),
        {name: torch.stack([each.divergence[name] for each in found]) for name in divergences},
        {strength: (over(strength, 0), over(strength, 1)) for strength in strengths},
    )


def _by_torch(log_p: Tensor, logits: Tensor, divergences: Collection[str], strengths: Collection[float]) -> Whole:
    """`compare_whole` of one layer, [n] each."""
    values = logits.to(log_p.dtype)
    found = Whole(values.logsumexp(dim=-1), {})
    log_q = values - found.log_z[:, None]
    for name in divergences:
        found.divergence[name] = DIVERGENCES[name](log_p, log_q, WHOLE)
    for strength in strengths:
        gained = gain(log_p, log_q, strength)
        found.gains[strength] = gained.logsumexp(dim=-1), gained.amax(dim=-1)
    return found


def _by_kernel(
    mature: Tensor, log_z: Tensor, layers: Sequence[Tensor], divergences: Collection[str], strengths: Collection[float]
) -> Whole:
    """`compare_whole` with the kernel."""
    kinds, asked = {name: name in divergences for name in native.DIVERGENCES}, list(strengths)
    at = [min(strength, LARGEST_SCORE) for strength in asked]
    read = native.compare(mature, log_z, layers, jsd=kinds["jsd"], reference=kinds["reference"], strengths=at)
    by_name = {"jsd": read.jsd, "reference": read.reference}
    return Whole(
        read.log_z,
        {name: value for name, value in by_name.items() if value is not None},
        {strength: (read.gain_log_z[s], read.gain_largest[s]) for s, strength in enumerate(asked)},
    )
