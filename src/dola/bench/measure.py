"""Times many runs in turns and summarizes their times.

In every repetition each way decodes the same prompts once, and the order rotates: a temporary disturbance of the machine
affects all ways alike. Ratios are taken within a repetition. Compiled code becomes invalid when hooks are added or removed, so
compiled ways run in blocks, one way after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from dola.bench.cases import Case, check_window
from dola.bench.machine import Machine
from dola.bench.memory import peak_memory
from dola.bench.results import BenchResult, CaseResult, Memory, Spread, WayResult
from dola.bench.source import Source
from dola.bench.ways import Bench, Run, Settings, Way
from dola.errors import ConfigError

Progress = Callable[[str], None]


def measure(
    model: Any, cases: Sequence[Case], settings: Settings, *, source: Source | None = None, progress: Progress | None = None
) -> BenchResult:
    """Decode each case in each way, in turns.

    Args:
        model: A causal LM in eval mode with nothing attached.
        cases: The prompts to decode.
        settings: How to decode, and how often.
        source: Where to load the model from, for peak memory on a CPU: each way runs in its own process, which loads the
            model again. Without it, memory is measured only on CUDA.
        progress: Called with one line per step.

    Raises:
        ConfigError: A case does not fit the model or the settings.
        AttachError, LayersError, ModelError: See `dola.attach`.
    """
    say = progress or (lambda line: None)
    bench = Bench(model, settings)
    check_window(bench.anatomy.lm, list(cases), settings.new_tokens)
    if settings.prompt_lookup and (wide := next((case for case in cases if case.batch_size > 1), None)):
        raise ConfigError(
            f"prompt_lookup with a batch of {wide.batch_size}: transformers drafts for one row only.",
            hint="use --batch-sizes 1",
        )
    found = []
    with bench:
        for number, case in enumerate(cases, 1):
            say(f"{number}/{len(cases)} {case.name}")
            found.append(_measure_case(bench, case, source, say))
    return BenchResult(
        machine=Machine.here(bench.device),
        model=_describe_model(bench, source),
        settings=settings.as_dict(),
        schedule="in blocks" if settings.compile else "in turns",
        cases=tuple(found),
    )


@dataclass
class _Times:
    """All runs of one way in one case."""

    first_call: Run
    forwards: int
    runs: list[Run] = field(default_factory=list)


def _measure_case(bench: Bench, case: Case, source: Source | None, say: Progress) -> CaseResult:
    settings, ways = bench.settings, bench.settings.ways()
    if hasattr(bench.anatomy.lm, "_previous_max_cache_length"):  # else a static cache keeps at least its previous length
        del bench.anatomy.lm._previous_max_cache_length
    times = _in_blocks(bench, case, say) if settings.compile else _in_turns(bench, case, say)
    results = {way: _result(way, times, case.batch_size) for way in ways}
    if settings.memory:
        for way in ways:
            if way.again:
                continue
            say(f"  memory of {way.name.replace('dola', settings.dola.method)}")
            results[way] = replace(results[way], memory=peak_memory(bench, way, case.prompts[0], source))
    greedy = results[ways[0]].memory
    return CaseResult(
        case.name,
        case.batch_size,
        case.prompt_tokens,
        settings.new_tokens,
        tuple(_with_memory_ratio(results[way], greedy) if way != ways[0] else results[way] for way in ways),
    )


def _in_turns(bench: Bench, case: Case, say: Progress) -> dict[Way, _Times]:
    ways = bench.settings.ways()
    times = {}
    for way in ways:
        say(f"  first call of {way.name}")
        with bench.made_ready(way):
            times[way] = _counted(bench, way, case)
    for repeat in range(bench.settings.repeats):
        say(f"  repetition {repeat + 1}/{bench.settings.repeats}")
        prompts = case.prompts[repeat % len(case.prompts)]
        turn = repeat % len(ways)
        for way in ways[turn:] + ways[:turn]:
            with bench.made_ready(way):
                bench.settle(way, prompts)
                times[way].runs.append(bench.run(way, prompts))
    return times


def _in_blocks(bench: Bench, case: Case, say: Progress) -> dict[Way, _Times]:
    times = {}
    for way in bench.settings.ways():
        say(f"  block of {way.name}, which is compiled first" if not way.old else f"  block of {way.name}")
        with bench.made_ready(way):
            first = bench.run(way, case.prompts[0])
            bench.run(way, case.prompts[0])  # CUDA graphs are recorded in the calls after the first
            runs = [bench.run(way, case.prompts[repeat % len(case.prompts)]) for repeat in range(bench.settings.repeats)]
        times[way] = _Times(first, first.steps, runs)  # the counting hook would be compiled too
    return times


def _counted(bench: Bench, way: Way, case: Case) -> _Times:
    """The first call of a way, with the number of the model's forward passes."""
    calls = []
    handle = bench.anatomy.lm.register_forward_pre_hook(lambda *_: calls.append(1))
    try:
        first = bench.run(way, case.prompts[0])
    finally:
        handle.remove()
    return _Times(first, len(calls))


def _result(way: Way, times: dict[Way, _Times], batch_size: int) -> WayResult:
    own = times[way]
    greedy, *_ = times.values()
    token_s = Spread.of(run.token_s for run in own.runs)

    def ratio(name: str) -> Spread | None:
        if own is greedy:
            return None
        return Spread.of(getattr(a, name) / getattr(b, name) for a, b in zip(own.runs, greedy.runs, strict=True))

    result = WayResult(
        way=way.name,
        first_call_s=own.first_call.total_s,
        first_token_s=Spread.of(run.first_token_s for run in own.runs),
        token_s=token_s,
        total_s=Spread.of(run.total_s for run in own.runs),
        tokens_per_s=batch_size / token_s.median,
        forwards=own.forwards,
        first_token_ratio=ratio("first_token_s"),
        token_ratio=ratio("token_s"),
        total_ratio=ratio("total_s"),
    )
    if not way.lookup:
        return result
    undrafted = next(other for other in times if other.dola == way.dola and not other.lookup and not other.old)
    pairs = zip(own.runs, times[undrafted].runs, strict=True)
    differences = [_first_difference(a.tokens, b.tokens) for a, b in pairs]
    positions = [position for position in differences if position is not None]
    return replace(result, differing_prompts=len(positions), first_difference=min(positions, default=None))


def _first_difference(tokens: torch.Tensor, others: torch.Tensor) -> int | None:
    """The first column at which [B, n] and [B, m] differ, or None if they are equal."""
    shared = min(tokens.shape[1], others.shape[1])
    differs = (tokens[:, :shared] != others[:, :shared]).any(dim=0)
    if differs.any():
        return int(differs.nonzero()[0])
    return None if tokens.shape == others.shape else shared


def _with_memory_ratio(result: WayResult, greedy: Memory | None) -> WayResult:
    if result.memory is None or greedy is None:
        return result
    return replace(result, memory_ratio=result.memory.peak_bytes / greedy.peak_bytes)


def _describe_model(bench: Bench, source: Source | None) -> dict[str, Any]:
    lm = bench.anatomy.lm
    config = lm.config.get_text_config()
    return {
        "name": source.model if source else getattr(lm, "name_or_path", ""),
        "random_weights": bool(source and source.random_weights),
        "class": type(lm).__name__,
        "dtype": str(lm.dtype).removeprefix("torch."),
        "device": str(bench.device),
        "parameters": sum(parameter.numel() for parameter in lm.parameters()),
        "blocks": bench.anatomy.num_layers,
        "hidden_size": config.hidden_size,
        "vocabulary": config.vocab_size,
        "candidate_layers": list(bench.layers),
    }
