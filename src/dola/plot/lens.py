"""The chart of a lens: how well each layer is read through it, beside the bare final norm."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LENS, NORM = {"color": "#0072b2", "marker": "o", "label": "lens"}, {"color": "#d55e00", "marker": "s", "label": "final norm"}
"""Colors that people with color blindness can distinguish (Okabe and Ito's palette), and markers that differ without color."""


def save_chart(table: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Write the chart of a lens's quality table, in the format of the file's suffix."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.6), layout="constrained")
    draw(figure.subplots(1, 3), table)
    figure.suptitle(title, fontsize=9, parse_math=False)  # a model's name may hold dollars
    figure.savefig(path, dpi=150)


def draw(panels: Sequence[Any], table: Sequence[Mapping[str, Any]]) -> None:
    """Draw R², KL and agreement by layer on three matplotlib axes. A tuned lens has no R²: its panel stays empty."""
    layers = [row["layer"] for row in table]
    kept = [row for row in table if row["r2"] is not None]
    share, divergence, agreement = panels
    share.plot([row["layer"] for row in kept], [row["r2"] for row in kept], **LENS)
    share.set_title("R²: explained variance of the head's input", fontsize=9)
    divergence.plot(layers, [row["kl"] for row in table], **LENS)
    divergence.plot(layers, [row["norm_kl"] for row in table], **NORM)
    divergence.set_yscale("log")
    divergence.yaxis.set_major_formatter("{x:g}")
    divergence.set_title("KL from the last layer, nats (log scale)", fontsize=9)
    agreement.plot(layers, [100 * row["top1"] for row in table], **LENS)
    agreement.plot(layers, [100 * row["norm_top1"] for row in table], **NORM)
    agreement.set_title("same likeliest token as the last layer, %", fontsize=9)
    agreement.set_ylim(0, 100)
    for axes in panels:
        axes.set_xlabel("layer", fontsize=8)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
    divergence.legend(fontsize=8)
