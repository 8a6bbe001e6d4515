"""The chart of a report: each way's metrics with their 95% intervals, and chance."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from dola.evidence.figures import summary
from dola.evidence.report import Report
from dola.evidence.ways import Role
from dola.files.whole_file import replacing

COLOURS = {"vanilla": "black", "way": "#0072b2", "control": "#999999"}
"""Colors that people with color blindness can distinguish (Okabe and Ito's palette)."""


def save_chart(report: Report, path: Path) -> None:
    """Write the chart, in the format of the file's suffix."""
    from matplotlib.figure import Figure

    panels = max(len(report.metrics), 1)
    figure = Figure(figsize=(3 + 2.6 * panels, 1.6 + 0.3 * len(report.ways)), layout="constrained")
    draw(figure.subplots(1, panels, sharey=True, squeeze=False)[0], report)
    title = [f"{report.task}, {report.model}, {report.dtype}", *wrap(summary(report), 50 * panels)]
    figure.suptitle("\n".join(title), fontsize=8)
    with replacing(path) as partial:
        figure.savefig(partial, dpi=150)


def draw(panels: Any, report: Report) -> None:
    """Draw on matplotlib axes, one for each metric: a point and its interval for each way, a line at chance."""
    places = range(len(report.ways))
    for axes, metric in zip(panels, report.metrics, strict=True):
        for y, way in zip(places, report.ways, strict=True):
            found = way.estimates[metric]
            spread = [[100 * (found.mean - found.low)], [100 * (found.high - found.mean)]]
            colour = COLOURS["vanilla" if way.role is Role.VANILLA else "control" if way.control else "way"]
            axes.errorbar(100 * found.mean, y, xerr=spread, fmt="o", color=colour, capsize=3)
        if (chance := report.chance[metric]) is not None:
            axes.axvline(100 * chance, color="black", linestyle=":", linewidth=1)
        axes.set_title(metric, fontsize=9)
    panels[0].set_yticks(list(places), [f"({way.name})" if way.control else way.name for way in report.ways], fontsize=8)
    panels[0].invert_yaxis()
