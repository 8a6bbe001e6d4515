"""Figures of a trace, by matplotlib: the paper's heatmap, probabilities over the layers, which layers were contrasted.

The drawing functions take matplotlib axes, so that they can be put into any figure; `save` makes one of all.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dola.errors import ConfigError
from dola.layer_trace import LayerTrace
from dola.plot.colours import CIVIDIS, hexadecimal
from dola.token_text import quoted, visible

TOKENS_PER_ROW = 24
"""A heatmap of more tokens goes on in another row."""

TOKENS_IN_FIGURE = 240
"""The first so many tokens are drawn: more would be no figure that anybody reads."""

LINES = 5
"""Tokens whose probability over the layers is drawn unless they are named, at most."""

LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
LINE_MARKERS = "os^Dv"
"""Told apart by people who see fewer colours, too (Okabe and Ito's palette), and without colour."""


def save(traces: Sequence[LayerTrace], path: Path) -> None:
    """Write one figure of some traces: for each its heatmap, then the probabilities at its most telling token, and layers.

    The format is that of the file's name.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [_rows(trace) for trace in traces]
    heights = [height for trace, count in zip(traces, rows, strict=True) for height in (*[_height(trace)] * count, 3.2)]
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():  # a token may hold dollars
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # or letters that the font lacks: boxes are drawn
        figure = Figure(figsize=(13, sum(heights) + 0.5), layout="constrained")
        parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        for trace, count in zip(traces, rows, strict=True):
            width = min(TOKENS_PER_ROW, len(trace.tokens))
            for row in range(count):
                heatmap(next(parts).subplots(), trace, row * width, width, titled=row == 0)
            left, right = next(parts).subplots(1, 2)
            probabilities(left, trace)
            layer_histogram(right, trace)
        figure.savefig(path, dpi=120)


def heatmap(axes: Any, trace: LayerTrace, start: int = 0, count: int | None = None, *, titled: bool = True) -> None:
    """The divergence of each layer at tokens `start` .. `start + count`: the paper's figure 2. Boxes are premature layers."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle

    tokens = trace.tokens[start : None if count is None else start + count]
    values = [[token.divergence[layer] for token in tokens] for layer in range(trace.num_layers)]
    colours = LinearSegmentedColormap.from_list("cividis of dola", [hexadecimal(each) for each in CIVIDIS])
    image = axes.imshow(values, origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=trace.scale)
    for column, token in enumerate(tokens):
        axes.add_patch(Rectangle((column - 0.5, token.layer - 0.5), 1, 1, fill=False, edgecolor="#d00000", linewidth=1.6))
    axes.set_xticks(range(len(tokens)), [_step(trace, start + i) for i in range(len(tokens))], rotation=50, ha="right")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(-0.5, max(len(tokens), count or 0) - 0.5)
    axes.set_ylabel("layer (candidates named)")
    axes.set_yticks(trace.candidates, trace.candidates, fontsize=7)
    axes.figure.colorbar(image, ax=axes, pad=0.01, label="nats" if trace.settings["divergence"] == "jsd" else None)
    if titled:
        axes.set_title(f"Divergence from the last layer: {visible(trace.model)}, {trace.title}", fontsize=9, loc="left")


def probabilities(axes: Any, trace: LayerTrace, index: int | None = None, tokens: Sequence[int] | None = None) -> None:
    """The probability of some tokens in each layer, where one token is chosen: "Olympia" rising over "Seattle".

    Args:
        axes: Where to draw.
        trace: The trace.
        index: Which token's choice; None takes `trace.telling()`.
        tokens: Whose probabilities, of those that are listed as plausible; None takes the best by contrast and the likeliest.
    """
    index = trace.telling() if index is None else index
    at = trace.tokens[index]
    for number, member in enumerate(_drawn(trace, index, tokens)):
        note = " (DoLa)" * (member.id == at.dola_choice) + " (last layer)" * (member.id == at.mature_choice)
        look = {"color": LINE_COLOURS[number % LINES], "marker": LINE_MARKERS[number % LINES], "markersize": 4}
        axes.plot(range(trace.num_layers + 1), member.probability, label=f"{quoted(trace.text(member.id))}{note}", **look)
    axes.axvline(at.layer, color="#d00000", linewidth=1, linestyle="--", label=f"premature layer {at.layer}")
    axes.set_yscale("symlog", linthresh=1e-4, linscale=0.4)
    axes.set_ylim(0, 1.3)
    axes.set_yticks([0, 1e-4, 1e-3, 1e-2, 1e-1, 1], ["0", "0.01%", "0.1%", "1%", "10%", "100%"])
    axes.minorticks_off()
    axes.set_xlabel("layer")
    axes.set_ylabel("probability")
    axes.set_title(f"Token {index + 1}: what follows {quoted(trace.text(at.after))}", fontsize=9, loc="left")
    axes.legend(fontsize=8, loc="best")


def layer_histogram(axes: Any, trace: LayerTrace) -> None:
    """How often each candidate was the premature layer; tokens at which it could change nothing are drawn lighter."""
    for lazy, shade, label in ((False, "#0072b2", "several plausible tokens"), (True, "#a6cee3", "one plausible token")):
        chosen = [token.layer for token in trace.tokens if (token.plausible_count == 1) == lazy]
        below = [0 if not lazy else _count(trace, layer, lazy=False) for layer in trace.candidates]
        axes.bar(trace.candidates, [chosen.count(layer) for layer in trace.candidates], bottom=below, color=shade, label=label)
    axes.set_xticks(trace.candidates, trace.candidates, fontsize=8)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("premature layer")
    axes.set_ylabel("tokens")
    axes.set_title("Which layers were contrasted", fontsize=9, loc="left")
    axes.legend(fontsize=8)


def _count(trace: LayerTrace, layer: int, *, lazy: bool) -> int:
    return sum(token.layer == layer and (token.plausible_count == 1) == lazy for token in trace.tokens)


def _drawn(trace: LayerTrace, index: int, tokens: Sequence[int] | None) -> list[Any]:
    at = trace.tokens[index]
    if tokens is None:
        likely = sorted(at.plausible[1:], key=lambda member: -member.probability[-1])
        return [at.plausible[0], *likely][:LINES]
    found = [at.member(token) for token in tokens]
    if None in found:
        missing = ", ".join(quoted(trace.texts.get(t, str(t))) for t, each in zip(tokens, found, strict=True) if each is None)
        raise ConfigError(
            f"{missing} is not listed as plausible at token {index}.", hint="take ids of trace.tokens[index].plausible"
        )
    return found


def _step(trace: LayerTrace, index: int) -> str:
    """What stands under a column: the token of the text, or the one that DoLa would choose."""
    token = trace.tokens[index]
    if token.token is None:
        return f"({visible(trace.text(token.dola_choice)).strip() or quoted(trace.text(token.dola_choice))}?)"
    text = visible(trace.text(token.token))
    return (text if len(text) <= 14 else text[:13] + "…").strip() or quoted(trace.text(token.token))


def _rows(trace: LayerTrace) -> int:
    return -(-min(len(trace.tokens), TOKENS_IN_FIGURE) // TOKENS_PER_ROW)


def _height(trace: LayerTrace) -> float:
    return max(3.0, 1.6 + 0.09 * trace.num_layers)
