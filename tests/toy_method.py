"""Methods that no file of the product knows, for tests of the seam: an average, and spikes of what was published.

`toy` is registered by an entry point of a package that `installed` makes. The spikes are written from their rules, without
speed in mind: they show that the seam fits methods that read layers in other ways than DoLa.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from dola.errors import ConfigError
from dola.methods import WHOLE, Candidates, Method, MethodConfig, Vocabulary


@dataclass(frozen=True)
class ToyConfig(MethodConfig):
    """log p of the mature layer, less `rate` times the mean log-probability of the candidates."""

    method: ClassVar[str] = "toy"
    layers: str | Sequence[int] = "last:3"
    _: KW_ONLY
    rate: float = 0.5

    def __post_init__(self) -> None:
        self.check_common()
        if not isinstance(self.rate, (int, float)) or isinstance(self.rate, bool):
            raise ConfigError(f"rate={self.rate!r} is not a number.", hint="rate=0.5")

    def build(self) -> Method:
        return Toy(self)


class Toy(Method):
    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        premature = vocab.log_softmax(candidates.logits().to(mature.device))
        return vocab.log_softmax(mature) - self.config.rate * premature.mean(dim=0)


def toy_judge(mature: Any, premature: Any, rate: float) -> list[float]:
    """Scores of one row in float64 and plain loops."""

    def log_softmax(row):
        largest = max(row)
        total = largest + math.log(math.fsum(math.exp(x - largest) for x in row))
        return [x - total for x in row]

    p, q = log_softmax(mature), [log_softmax(row) for row in premature]
    return [p[x] - rate * math.fsum(row[x] for row in q) / len(q) for x in range(len(p))]


def installed(folder: Path, entry: str = "toy = toy_method:ToyConfig") -> Path:
    """What an installed package with the method leaves in a folder of Python's path."""
    info = folder / "toy_method-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-method\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[dola.methods]\n{entry}\n")
    return folder


@dataclass(frozen=True)
class ConfidentConfig(MethodConfig):
    """Confident Decoding: walk down from the last layer while the entropy falls."""

    method: ClassVar[str] = "confident-spike"
    layers: str | Sequence[int] = "last:3"

    def __post_init__(self) -> None:
        self.check_common()

    def build(self) -> Method:
        return Confident(self)


class Confident(Method):
    """Reads one candidate at a time, and only for rows that are still open. All workers read equally often."""

    reads_all = False

    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        return self._walk(mature, candidates, vocab)[0]

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        chosen = self._walk(mature, candidates, vocab)[1]
        return torch.nn.functional.one_hot(chosen, len(candidates) + 1).T.float()

    def _walk(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary) -> tuple[Tensor, Tensor]:
        scores = mature.float().clone()
        chosen = torch.full(mature.shape[:1], len(candidates), device=mature.device)
        entropy = self._entropy(mature, vocab)
        rows = torch.arange(len(mature), device=mature.device)
        for k in range(len(candidates) - 1, -1, -1):
            logits = candidates.logits(k, rows)
            found = self._entropy(logits, vocab)
            falls = found < entropy[rows]
            rows = rows[falls]
            if not len(rows):
                break
            scores[rows], entropy[rows], chosen[rows] = logits[falls].float(), found[falls], k
        return scores, chosen

    @staticmethod
    def _entropy(logits: Tensor, vocab: Vocabulary) -> Tensor:
        log_p = vocab.log_softmax(logits)
        return -vocab.sum(torch.where(log_p > -torch.inf, log_p.exp() * log_p, 0))


@dataclass(frozen=True)
class DeLTaConfig(MethodConfig):
    """DeLTa: the line through each token's logits over the layers, at a layer beyond the last."""

    method: ClassVar[str] = "delta-spike"
    layers: str | Sequence[int] = "last:3"
    _: KW_ONLY
    beyond: float = 1.0

    def __post_init__(self) -> None:
        self.check_common()

    def build(self) -> Method:
        return DeLTa(self)


class DeLTa(Method):
    """One combined state: one row of the head, whatever the number of layers. Without its plausible set."""

    reads_all = False

    def line(self, candidates: Candidates) -> Tensor:
        """Weights [K+1]: of points at -K .. 0, taken at `beyond`."""
        x = torch.arange(-len(candidates), 1, dtype=torch.float64)
        away = x - x.mean()
        return 1 / len(x) + away * (self.config.beyond - x.mean()) / (away**2).sum()

    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        return candidates.combined(mature, self.line(candidates).to(mature.device, torch.float32))

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        return self.line(candidates)[:, None].expand(-1, len(mature)).float()
