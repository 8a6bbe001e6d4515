"""Warning signs: which numbers of a trace can be signs that an answer is wrong, and what they are for a sample's answers.

Plain decoding answers. `tracing` reads the layers at the tokens of each answer, and each number of a token is aggregated over
them twice: the mean, and the worst token. The list, and which end of each number is expected of wrong answers, were fixed
before any data were looked at. Numbers that span layers are of DoLa's candidates (and the last layer), as they are configured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch

from dola.methods.config import DoLaConfig
from dola.methods.contrast import gain
from dola.tracing.data import TokenTrace

LEAST_PROBABILITY = 5e-324
"""What stands for a probability that has underflown to 0: the smallest positive float."""


@dataclass(frozen=True)
class Read:
    """A token, and how it was read.

    Attributes:
        token: Its trace; it has a `token`.
        config: The configuration that was traced.
        candidates: The candidate premature layers.
        num_layers: Number of blocks.
    """

    token: TokenTrace
    config: DoLaConfig
    candidates: tuple[int, ...]
    num_layers: int

    @property
    def layer(self) -> int:
        """The premature layer."""
        assert self.token.layer is not None  # as under DoLa
        return self.token.layer

    def log_probability(self, layer: int) -> float:
        """Log-probability of the token in a layer, in nats."""
        assert self.token.probability is not None
        return math.log(max(self.token.probability[layer], LEAST_PROBABILITY))


@dataclass(frozen=True)
class Quantity:
    """A number of each token.

    Attributes:
        name: Its name in reports.
        description: One line on it.
        of: Computes it.
        doubt_is_high: Whether wrong answers are expected to have the higher numbers.
    """

    name: str
    description: str
    of: Callable[[Read], float]
    doubt_is_high: bool = True

    @property
    def worst(self) -> str:
        """The name of its worst value over the tokens of an answer."""
        return f"{self.name}, {'highest' if self.doubt_is_high else 'lowest'}"

    @property
    def mean(self) -> str:
        """The name of its mean over the tokens of an answer."""
        return f"{self.name}, mean"


def _rank_changes(read: Read) -> float:
    assert read.token.rank is not None
    ranks = [read.token.rank[layer] for layer in (*read.candidates, read.num_layers)]
    return math.fsum(abs(math.log(after / before)) for before, after in pairwise(ranks))


def _gain(read: Read) -> float:
    log_p, log_q = (torch.tensor(read.log_probability(layer), dtype=torch.float64) for layer in (read.num_layers, read.layer))
    return float(gain(log_p, log_q, read.config.strength))


def _entropy(read: Read) -> float:
    assert read.token.entropy is not None
    return read.token.entropy


QUANTITIES = (
    Quantity("largest divergence", "of a candidate from the last layer", lambda read: read.token.divergence[read.layer]),
    Quantity(
        "mean divergence",
        "of all candidates from the last layer",
        lambda read: fmean(read.token.divergence[layer] for layer in read.candidates),
    ),
    Quantity("premature layer", "the candidate that diverges most", lambda read: float(read.layer)),
    Quantity("entropy", "of the last layer's distribution", _entropy),
    Quantity("rank changes", "of the token from candidate to candidate and to the last layer, in logs", _rank_changes),
    Quantity("gain", "of the token: its contrast with the premature layer", _gain, doubt_is_high=False),
)
"""What is judged: each by its mean and by its worst value over an answer's tokens."""

CONTROL = Quantity(
    "log-probability",
    "of the token in the last layer, the plain token probability",
    lambda read: read.log_probability(read.num_layers),
    doubt_is_high=False,
)
"""What is to be beaten: it needs no layer but the last."""


def signal_names() -> dict[str, Quantity]:
    """The signals by name: each quantity's mean and worst value, without the control's."""
    return {name: each for each in QUANTITIES for name in (each.mean, each.worst)}


def aggregated(tokens: Sequence[Read]) -> dict[str, float]:
    """All signals of one answer, the control's last, from its tokens."""
    found = {}
    for each in (*QUANTITIES, CONTROL):
        values = [each.of(read) for read in tokens]
        found[each.mean], found[each.worst] = fmean(values), (max if each.doubt_is_high else min)(values)
    return found
