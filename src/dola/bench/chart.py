"""The chart of a benchmark: time per token of each way relative to greedy decoding, case by case."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Any

from dola.bench.results import BenchResult
from dola.errors import ConfigError, MissingExtraError
from dola.files.whole_file import replacing
from dola.installed.hints import install_line

FORMATS = (".png", ".svg", ".pdf")
COLOURS = {"dola": "#0072b2", "old": "#999999", "greedy+lookup": "#e69f00", "dola+lookup": "#009e73", "greedy again": "#dddddd"}
"""Colors that people with color blindness can distinguish (Okabe and Ito's palette)."""


def check_chart(path: Path, option: str = "--chart") -> None:
    """Check before measuring that the chart can be written afterwards. `option` is the option that named the file.

    Raises:
        MissingExtraError: matplotlib is not installed.
        ConfigError: The format is not supported, or the folder does not exist.
    """
    if find_spec("matplotlib") is None:
        raise MissingExtraError("A chart needs matplotlib, which is not installed.", hint=install_line("plot"))
    if path.suffix not in FORMATS:
        raise ConfigError(f"{option} {path}: the file must end in {', '.join(FORMATS)}.", hint=f"use {option} {path.stem}.svg")
    if not path.parent.is_dir():
        raise ConfigError(f"{option} {path}: the folder {str(path.parent)!r} does not exist.", hint=f"mkdir -p {path.parent}")


def save_chart(result: BenchResult, path: Path) -> None:
    """Write the chart, in the format of the file's suffix."""
    from matplotlib.figure import Figure

    bars = sum(len(case.ways) - 1 for case in result.cases)
    figure = Figure(figsize=(8, 1.5 + 0.28 * bars + 0.2 * len(result.cases)), layout="constrained")
    draw(figure.subplots(), result)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)


def draw(axes: Any, result: BenchResult) -> None:
    """Bars on matplotlib axes: the median over the repetitions, with a line from the smallest to the largest ratio."""
    y, ticks, named = 0.0, [], set()
    for case in result.cases:
        first = y
        for way in case.ways:
            if (ratio := way.token_ratio) is None:
                continue
            label = None if way.way in named else result.shown(way.way)
            named.add(way.way)
            spread = [[ratio.median - ratio.min], [ratio.max - ratio.median]]
            axes.barh(y, ratio.median, xerr=spread, height=0.8, color=COLOURS[way.way], label=label, ecolor="black")
            axes.text(ratio.max, y, f"  x{ratio.median:.2f}", va="center", fontsize=8)
            y += 1
        ticks.append(((first + y - 1) / 2, case.name))
        y += 0.7
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks([position for position, _ in ticks], [name for _, name in ticks])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("time per token, greedy decoding = 1")
    model = result.model
    axes.set_title("\n".join([f"{model['name']}, {model['dtype']}", *wrap(result.machine.describe(), 90)]), fontsize=8)
    axes.legend(loc="best", fontsize=8)
