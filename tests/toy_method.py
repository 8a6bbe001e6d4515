"""A method that no file of the product knows, for tests of the seam: an average.

It is registered by an entry point of a package that `installed` makes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, ClassVar

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
