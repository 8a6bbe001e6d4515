"""Figures of a trace with matplotlib: the paper's heatmap, probabilities over the layers, the contrasted layers.

The drawing functions take matplotlib axes, so that they fit into any figure; `save` combines them in one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dola.errors import ConfigError
from dola.files.whole_file import replacing
from dola.plot.colours import CIVIDIS, hexadecimal
from dola.text.token_text import quoted, visible

if TYPE_CHECKING:
    from dola.tracing.data import LayerTrace

TOKENS_PER_ROW = 24
"""Tokens in one row of a heatmap; more continue in another row."""

TOKENS_IN_FIGURE = 240
"""Only this many tokens are drawn, from the first one: a larger figure would be unreadable."""

LINES = 5
"""Maximum number of tokens whose probability over the layers is drawn, unless tokens are named."""

FLOOR = 1e-40
"""Lower probabilities are drawn at the bottom. So is the embedding's, far below all others, unless it is a candidate."""

BELOW: dict[str, Any] = {"fontsize": 8, "loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": 2, "frameon": False}
"""The place of a legend: below the axes, so that it covers no line."""

LINE_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
LINE_MARKERS = "os^Dv"
"""Styles that people with color blindness can distinguish (Okabe and Ito's palette), and that differ without color."""


def save(traces: Sequence[LayerTrace], path: Path) -> None:
    """Write one figure of some traces: for each its heatmap, then the probabilities at its most telling token, and layers.

    The suffix of the file's name sets the format.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [_rows(trace) for trace in traces]
    heights = [height for trace, count in zip(traces, rows, strict=True) for height in (*[_height(trace)] * count, 3.2)]
    with rc_context({"text.parse_math": False}), warnings.catch_warnings():  # a token may hold dollars
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # or letters that the font lacks: boxes
        figure = Figure(figsize=(13, sum(heights) + 0.5), layout="constrained")
        parts = iter(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
        for trace, count in zip(traces, rows, strict=True):
            width = min(TOKENS_PER_ROW, len(trace.tokens))
            for row in range(count):
                heatmap(next(parts).subplots(), trace, row * width, width, titled=row == 0)
            left, right = next(parts).subplots(1, 2)
            probabilities(left, trace)
            layer_histogram(right, trace)
        with replacing(path) as partial:
            figure.savefig(partial, dpi=120, format=path.suffix[1:] or "png")


def heatmap(axes: Any, trace: LayerTrace, start: int = 0, count: int | None = None, *, titled: bool = True) -> None:
    """The divergence of each layer at tokens `start` .. `start + count`: the paper's figure 2. Boxes are used layers."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    tokens = trace.tokens[start : None if count is None else start + count]
    values = [[token.divergence[layer] for token in tokens] for layer in range(trace.num_layers)]
    colours = LinearSegmentedColormap.from_list("cividis of dola", [hexadecimal(each) for each in CIVIDIS])
    image = axes.imshow(values, origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=trace.scale)
    for column, token in enumerate(tokens):
        if token.layer is None:
            continue
        box = Rectangle((column - 0.5, token.layer - 0.5), 1, 1, fill=False, edgecolor="#d00000", linewidth=1.6)
        box.set_path_effects([withStroke(linewidth=3.2, foreground="white")])  # red alone is invisible on the dark end
        axes.add_patch(box)
    axes.set_xticks(range(len(tokens)), [_step(trace, start + i) for i in range(len(tokens))], rotation=50, ha="right")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(-0.5, max(len(tokens), count or 0) - 0.5)
    axes.set_ylabel("layer (0, and the candidates)")
    named = sorted({0, *trace.candidates})
    axes.set_yticks(named, named, fontsize=7)
    axes.figure.colorbar(image, ax=axes, pad=0.01, label="nats" if trace.settings.get("divergence", "jsd") == "jsd" else None)
    if titled:
        axes.set_title(f"Divergence from the last layer: {visible(trace.model)}, {trace.title}", fontsize=9, loc="left")


def probabilities(axes: Any, trace: LayerTrace, index: int | None = None, tokens: Sequence[int] | None = None) -> None:
    """The probability of some tokens in each layer, at the choice of one token: "Olympia" rising above "Seattle".

    The scale is logarithmic, so a token's contrast is how far its line rises from the premature layer to the last one.

    Args:
        axes: Axes to draw on.
        trace: The trace.
        index: Index of the token whose choice to show; None means `trace.telling()`.
        tokens: Tokens to draw, among the plausible ones and the one that follows in the text. None means the best by
            contrast, the likeliest, and the one that follows.

    Raises:
        ConfigError: The trace does not contain the probabilities of a token.
    """
    index = trace.telling() if index is None else index % len(trace.tokens)
    at = trace.tokens[index]
    drawn = _drawn(trace, index, tokens)
    first = 0 if 0 in trace.candidates else 1
    floor = max(FLOOR, min(min(shares[first:]) for shares in drawn.values()))
    for number, (token, shares) in enumerate(drawn.items()):
        roles = {trace.method_name: at.dola_choice, "last layer": at.mature_choice, "text": at.token}
        note = ", ".join(role for role, one in roles.items() if one == token)
        look = {"color": LINE_COLOURS[number % LINES], "marker": LINE_MARKERS[number % LINES], "markersize": 4}
        label = quoted(trace.text(token)) + (f" ({note})" if note else "")
        axes.plot(range(trace.num_layers + 1), [max(share, floor) for share in shares], label=label, **look)
    if at.layer is not None:
        axes.axvline(at.layer, color="#d00000", linewidth=1, linestyle="--", label=f"{trace.used_layer} {at.layer}")
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.4g}")  # the default one is in TeX
    axes.set_ylim(floor / 3, 3)
    axes.set_xlabel("layer")
    axes.set_ylabel("probability")
    axes.set_title(f"Token {index + 1}: what follows {quoted(trace.text(at.after))}", fontsize=9, loc="left")
    axes.legend(**BELOW)


def layer_histogram(axes: Any, trace: LayerTrace) -> None:
    """How often each candidate was the layer that was used; tokens where it could not change the choice are lighter."""
    if all(token.layer is None for token in trace.tokens):
        axes.set_axis_off()
        axes.text(0.5, 0.5, f"{trace.method_name} used no single layer", ha="center", va="center", fontsize=9)
        return
    below = [0] * len(trace.candidates)
    for settled, shade, label in ((False, "#0072b2", "several plausible tokens"), (True, "#a6cee3", "one plausible token")):
        uses = trace.uses(settled=settled)
        counts = [uses[layer] for layer in trace.candidates]
        axes.bar(trace.candidates, counts, bottom=below, color=shade, label=label)
        below = counts
    axes.set_xticks(trace.candidates, trace.candidates, fontsize=8)
    axes.set_ylim(0, 1.1 * axes.dataLim.y1)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel(trace.used_layer)
    axes.set_ylabel("tokens")
    axes.set_title(f"Which layers were {'contrasted' if trace.by_dola else 'used'}", fontsize=9, loc="left")
    axes.legend(**BELOW)


def _drawn(trace: LayerTrace, index: int, tokens: Sequence[int] | None) -> dict[int, Sequence[float]]:
    """The tokens to draw, with their probabilities in each layer."""
    at = trace.tokens[index]
    known: dict[int, Sequence[float]] = {member.id: member.probability for member in at.plausible}
    if at.token is not None and at.probability is not None:
        known.setdefault(at.token, at.probability)
    if tokens is None:
        best, *others = at.plausible
        likely = [each.id for each in sorted(others, key=lambda member: -member.probability[-1])]
        tokens = [best.id, *likely][:LINES]
        if at.token is not None and at.token not in tokens:
            tokens = [*tokens[: LINES - 1], at.token]
    if missing := [token for token in tokens if token not in known]:
        named = ", ".join(quoted(trace.texts.get(token, str(token))) for token in missing)
        raise ConfigError(
            f"The trace lacks the probabilities of {named} at token {index}: neither plausible nor in the text.",
            hint="use ids from trace.tokens[index].plausible, or trace a text in which the token follows",
        )
    return {token: known[token] for token in tokens}


def _step(trace: LayerTrace, index: int) -> str:
    """The label of a column: the token of the text, or the one that the method would choose."""
    token = trace.tokens[index]
    if token.token is None:
        return f"({visible(trace.text(token.dola_choice)).strip() or quoted(trace.text(token.dola_choice))}?)"
    text = visible(trace.text(token.token))
    return (text if len(text) <= 14 else text[:13] + "…").strip() or quoted(trace.text(token.token))


def _rows(trace: LayerTrace) -> int:
    return -(-min(len(trace.tokens), TOKENS_IN_FIGURE) // TOKENS_PER_ROW)


def _height(trace: LayerTrace) -> float:
    return max(3.0, 1.6 + 0.09 * trace.num_layers)
