"""The results of a benchmark, as dataclasses that become JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from dola.bench.machine import Machine


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum over repetitions."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of one or more values."""
        found = list(values)
        return cls(min(found), statistics.median(found), max(found))


@dataclass(frozen=True)
class Memory:
    """Peak memory of one whole generation.

    Attributes:
        peak_bytes: The largest amount in use, including the model.
        before_bytes: The amount in use just before: the model, Python and torch.
        method: How it was measured.
    """

    peak_bytes: int
    before_bytes: int
    method: str


@dataclass(frozen=True)
class WayResult:
    """One way of decoding one case. Ratios are taken against plain greedy decoding of the same repetition.

    Attributes:
        way: "greedy", "dola", "old", "greedy+lookup", "dola+lookup", or "greedy again", whose ratios are the noise of the
            machine.
        first_call_s: Seconds of the very first call, including warm-up and compilation.
        first_token_s: Seconds from the call to the end of the first step, mostly the prompt's forward pass.
        token_s: Seconds per token after the first step; one step of a whole batch counts as one token.
        total_s: Seconds of the whole call.
        tokens_per_s: Tokens of all rows per second after the first step, at the median.
        forwards: Forward passes of the model in one generation, including the prompt's.
        first_token_ratio, token_ratio, total_ratio: The same times relative to greedy; None for greedy itself.
        memory: Peak memory, or None if it was not measured.
        memory_ratio: Peak memory relative to greedy.
        differing_prompts: Number of batches whose tokens differ from those without prompt lookup; None without it.
        first_difference: The earliest new token at which they differ (0 is the first), or None.
    """

    way: str
    first_call_s: float
    first_token_s: Spread
    token_s: Spread
    total_s: Spread
    tokens_per_s: float
    forwards: int
    first_token_ratio: Spread | None = None
    token_ratio: Spread | None = None
    total_ratio: Spread | None = None
    memory: Memory | None = None
    memory_ratio: float | None = None
    differing_prompts: int | None = None
    first_difference: int | None = None


@dataclass(frozen=True)
class CaseResult:
    """One case, decoded in several ways."""

    name: str
    batch_size: int
    prompt_tokens: int
    new_tokens: int
    ways: tuple[WayResult, ...]


@dataclass(frozen=True)
class Summary:
    """One way over all cases: the spread of its median ratios over the cases."""

    way: str
    cases: int
    first_token_ratio: Spread
    token_ratio: Spread
    total_ratio: Spread
    memory_ratio: Spread | None


@dataclass(frozen=True)
class BenchResult:
    """A whole benchmark.

    Attributes:
        machine: Machine, versions and date.
        model: Name or shape, class, dtype, device, layers, vocabulary, parameters, and the candidate layers in use.
        settings: The settings of the run.
        schedule: "in turns", or "in blocks" if changing hooks would cause another compilation.
        cases: The results.
    """

    machine: Machine
    model: dict[str, Any]
    settings: dict[str, Any]
    schedule: str
    cases: tuple[CaseResult, ...]

    def shown(self, way: str) -> str:
        """The name of a way in tables and charts: the method's own in place of "dola", which files have for any method."""
        return way.replace("dola", str(self.settings["dola"].get("method", "dola")), 1)

    def summaries(self) -> tuple[Summary, ...]:
        """Each way except greedy, over all cases."""
        found = []
        for name in dict.fromkeys(way.way for case in self.cases for way in case.ways if way.token_ratio is not None):
            ways = [way for case in self.cases for way in case.ways if way.way == name]
            spreads = {
                field: Spread.of(getattr(way, field).median for way in ways)
                for field in ("first_token_ratio", "token_ratio", "total_ratio")
            }
            memory = [way.memory_ratio for way in ways if way.memory_ratio is not None]
            found.append(Summary(name, len(ways), **spreads, memory_ratio=Spread.of(memory) if memory else None))
        return tuple(found)

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain dicts, lists and numbers."""
        return asdict(self) | {
            "cases": [asdict(case) | {"ways": [asdict(way) for way in case.ways]} for case in self.cases],
            "summary": [asdict(summary) for summary in self.summaries()],
        }
