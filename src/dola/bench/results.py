"""The results of a benchmark, as dataclasses that become JSON."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from dola.bench.machine import Machine


@dataclass(frozen=True)
class Spread:
    """Smallest, median and largest of some repetitions."""

    min: float
    median: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """The spread of at least one value."""
        found = list(values)
        return cls(min(found), statistics.median(found), max(found))


@dataclass(frozen=True)
class Memory:
    """Peak memory of one whole generation.

    Attributes:
        peak_bytes: The largest amount in use, the model included.
        before_bytes: What was in use just before: the model, and what Python and torch need.
        method: How it was found out.
    """

    peak_bytes: int
    before_bytes: int
    method: str


@dataclass(frozen=True)
class WayResult:
    """One way of decoding one case. Ratios are taken against plain greedy decoding of the same repetition.

    Attributes:
        way: "greedy", "dola", "old", "greedy+lookup" or "dola+lookup".
        first_call_s: The first call of all, warm-up and compilation included.
        first_token_s: From the call to the end of the first step, mostly the prompt's forward.
        token_s: Time per token after the first step; one of a whole batch counts as one.
        total_s: The whole call.
        tokens_per_s: Tokens of all rows per second, after the first step, at the median.
        forwards: Calls of the model's forward in one generation, the prompt's included.
        first_token_ratio, token_ratio, total_ratio: The same over greedy's; None for greedy itself.
        memory: Peak memory, or None where it was not measured.
        memory_ratio: Peak over greedy's.
        differing_prompts: With prompt lookup, on how many batches the tokens differ from those without; otherwise None.
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
    """One way over all cases: the spread, over cases, of its median ratios."""

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
        machine: On what, with which versions, when.
        model: Name or shape, class, dtype, device, layers, vocabulary, parameters, and the candidate layers in use.
        settings: What was asked for.
        schedule: "in turns", or "in blocks" where changing hooks would compile anew.
        cases: The results.
    """

    machine: Machine
    model: dict[str, Any]
    settings: dict[str, Any]
    schedule: str
    cases: tuple[CaseResult, ...]

    def summaries(self) -> tuple[Summary, ...]:
        """Each way but greedy, over all cases."""
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
