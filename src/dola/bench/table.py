"""The result of a benchmark on a terminal: one table per case, ways side by side."""

from __future__ import annotations

from collections.abc import Callable

from rich import box
from rich.console import Console
from rich.table import Table

from dola.bench.results import BenchResult, CaseResult, Spread, WayResult

ROWS: dict[str, Callable[[WayResult], str]] = {
    "ms per token": lambda way: f"{1000 * way.token_s.median:.2f}",
    "  over greedy": lambda way: _ratio(way.token_ratio),
    "  min-max": lambda way: _range(way.token_ratio),
    "ms to 1st token": lambda way: f"{1000 * way.first_token_s.median:.1f}",
    "  over greedy ": lambda way: _ratio(way.first_token_ratio),
    "  min-max ": lambda way: _range(way.first_token_ratio),
    "s per call": lambda way: f"{way.total_s.median:.3f}",
    "  over greedy  ": lambda way: _ratio(way.total_ratio),
    "tokens/s": lambda way: f"{way.tokens_per_s:.1f}",
    "forwards": lambda way: str(way.forwards),
    "peak MiB": lambda way: f"{way.memory.peak_bytes / 2**20:.0f}" if way.memory else "",
    "  over greedy   ": lambda way: f"x{way.memory_ratio:.3f}" if way.memory_ratio else "",
    "s of 1st call": lambda way: f"{way.first_call_s:.2f}",
}
"""The rows of the table. Times are medians."""


MEANINGS = {
    "old": "DoLa as transformers 4.55.4 decodes with it",
    "greedy+lookup": "greedy decoding with drafts from the prompt",
    "greedy again": "greedy decoding a second time, which shows the machine's noise",
}
"""What the ways are whose names do not say it."""


def render(console: Console, result: BenchResult) -> None:
    """Print the tables of a result, and the machine that it was measured on."""
    for case in result.cases:
        console.print(f"{case.name}, {case.new_tokens} new")
        console.print(_table(result, case))
        for way in case.ways:
            if way.way == "greedy again":
                console.print(f"Noise: greedy decoding took {_range(way.token_ratio)} times as long as greedy decoding itself.")
            if way.differing_prompts:
                console.print(
                    f"{result.shown(way.way)}: tokens differ from those without drafts in {way.differing_prompts} repetitions, "
                    f"first at new token {way.first_difference}."
                )
    ways = dict.fromkeys(way.way for case in result.cases for way in case.ways)
    console.print("\n".join(f"{result.shown(way)}: {MEANINGS[way]}." for way in ways if way in MEANINGS))
    console.print("Each ratio is the median of the repetitions' own ratios, so it can differ from the ratio of two medians.")
    if len(result.cases) > 1:
        console.print("Medians over all cases, over greedy: " + "; ".join(_summary(result)))
    console.print(f"{_describe(result)}\n{result.machine.describe()}")


def _table(result: BenchResult, case: CaseResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for way in case.ways:
        table.add_column(result.shown(way.way).replace("+", "\n+"), justify="right")
    for name, cell in ROWS.items():
        cells = [cell(way) for way in case.ways]
        if any(cells):
            table.add_row(name.rstrip(), *cells)
    return table


def _describe(result: BenchResult) -> str:
    model, settings = result.model, result.settings
    return (
        f"{model['name']}{' (random weights)' if model['random_weights'] else ''}, {model['dtype']}, {model['device']}, "
        f"candidate layers {', '.join(map(str, model['candidate_layers']))} of {model['blocks']}, "
        f"repetition penalty {settings['repetition_penalty']}, {settings['cache']} cache"
        f"{', compiled' if settings['compile'] else ''}; {settings['repeats']} runs {result.schedule}."
    )


def _summary(result: BenchResult) -> list[str]:
    return [
        f"{result.shown(found.way)} x{found.token_ratio.median:.3f} per token, x{found.total_ratio.median:.3f} per call"
        for found in result.summaries()
    ]


def _ratio(spread: Spread | None) -> str:
    return f"x{spread.median:.3f}" if spread else ""


def _range(spread: Spread | None) -> str:
    return f"{spread.min:.2f}-{spread.max:.2f}" if spread else ""
