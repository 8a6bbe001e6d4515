"""Renders a trace on a terminal: a heatmap of divergences, layers by tokens, in blocks as wide as the terminal.

Every cell shows its number, so that nothing is lost without color. Brackets mark the layer that each token used, if it was one.
A terminal with fewer lines than layers gets the candidates and some of the others.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.style import Style
from rich.text import Text

from dola.plot.colours import colour, hexadecimal, ink
from dola.text.token_text import quoted, visible

if TYPE_CHECKING:
    from dola.tracing.data import LayerTrace, TokenTrace

CELL = 8
"""Width of a token's column."""

LABEL = 7
"""Width of the layers' numbers."""

HEADER = 2
"""Maximum number of lines for a token's text."""

AROUND = 11
"""Lines of a terminal that a block needs besides its layers and the legend: texts above and below, and the prompt."""

SENTENCES = 5
"""Maximum number of tokens explained above the heatmap."""

MANY = 8
"""Number of marked columns from which on the layers are counted below the heatmap, if there is room."""


def render(console: Console, trace: LayerTrace) -> None:
    """Print a trace: explanations of tokens where the method differs from the last layer, its heatmap, and a legend."""
    plain = console.color_system is None or console.no_color
    console.print(Text(f"{trace.model}: {trace.title}", style="bold"))
    for sentence in sentences(trace):
        console.print(Text(sentence))
    legend = list(_legend(trace, plain))
    size, layers = max(1, (console.width - LABEL) // CELL), list(reversed(range(trace.num_layers)))
    uses = list(_uses(trace))
    if console.is_terminal:
        room = console.height - AROUND - _height(console, legend)
        layers = fitting(layers, {0, *trace.candidates, *(token.layer for token in trace.tokens)}, room)
        uses = uses if len(layers) + _height(console, uses) <= room else []  # layers come first
    for start in range(0, len(trace.tokens), size):
        console.print()
        for line in _block(trace, trace.tokens[start : start + size], layers, plain):
            console.print(line, no_wrap=True, overflow="crop", crop=True)
    console.print()
    for line in (*legend, *uses):
        console.print(line)
    if hidden := trace.num_layers - len(layers):
        fitted = f"Left out, so that the others fit into {console.height} lines"
        console.print(f"{fitted}: {hidden} of {trace.num_layers} layers. --html shows all.")


def _height(console: Console, lines: list[Text]) -> int:
    """Lines of the terminal that these take."""
    return sum(len(line.wrap(console, console.width)) for line in lines)


def fitting(layers: Sequence[int], needed: Container[int | None], room: int) -> list[int]:
    """The layers that `room` lines can show: those that are needed, and as many of the others, evenly spread."""
    others = [layer for layer in layers if layer not in needed]
    space = max(0, room - (len(layers) - len(others)))
    if space >= len(others):
        return list(layers)
    shown = {others[(2 * i + 1) * len(others) // (2 * space)] for i in range(space)}
    return [layer for layer in layers if layer in needed or layer in shown]


def sentences(trace: LayerTrace) -> Iterator[str]:
    """Explanations of the tokens where the method and the last layer choose differently; if none, of the most telling one."""
    differing = [i for i, token in enumerate(trace.tokens) if token.dola_choice != token.mature_choice]
    for index in differing[:SENTENCES] or [trace.telling()]:
        yield f"Token {index + 1}. {trace.explain(index)}"
    if len(differing) > SENTENCES:
        yield f"{len(differing) - SENTENCES} more tokens differ: --html or --json shows them."


def _block(trace: LayerTrace, tokens: tuple[TokenTrace, ...], layers: Sequence[int], plain: bool) -> Iterator[Text]:
    yield from _header([_name(trace, token.after) for token in tokens], "after", "dim")
    for layer in layers:
        mark = "*" if layer in trace.candidates else " "
        line = Text(f"{layer:>{LABEL - 3}} {mark} ")
        for token in tokens:
            line.append_text(_cell(trace, token, layer, plain))
        yield line
    yield from _header([_name(trace, token.mature_choice) for token in tokens], "last", "")
    styles = ["bold" if token.dola_choice != token.mature_choice else "" for token in tokens]
    names = [_name(trace, token.dola_choice) if style else "=" for token, style in zip(tokens, styles, strict=True)]
    yield from _header(names, _chosen(trace), "bold")
    if any(token.token not in (token.dola_choice, None) for token in tokens):
        yield from _header(["" if token.token is None else _name(trace, token.token) for token in tokens], "text", "dim")


def _cell(trace: LayerTrace, token: TokenTrace, layer: int, plain: bool) -> Text:
    share = token.divergence[layer] / trace.scale
    number = f"{token.divergence[layer]:.2f}" if trace.settings.get("divergence", "jsd") == "jsd" else f"{share:.0%}"
    chosen = layer == token.layer
    words = (f"[{number}]" if chosen else f" {number} ").center(CELL - 1)
    if plain:
        return Text(f"{words} ")
    back = colour(share)
    style = Style(color=hexadecimal(ink(back)), bgcolor=hexadecimal(back), bold=chosen)
    return Text.assemble((words, style), " ")


def _header(names: list[str], label: str, style: str) -> Iterator[Text]:
    """Header lines: texts folded to the width of their columns."""
    folded = [_fold(name) for name in names]
    for number in range(max(map(len, folded))):
        line = Text(f"{label if number == 0 else '':<{LABEL}}")
        for lines in folded:
            words = lines[number] if number < len(lines) else ""
            line.append(set_cell_size(words, CELL - 1) + " ", style=style)
        yield line


def _fold(name: str) -> list[str]:
    """A text in at most HEADER lines of CELL - 1 columns; a longer one ends with an ellipsis."""
    lines = [""]
    for character in name:
        if cell_len(lines[-1]) + cell_len(character) > CELL - 1:
            if len(lines) == HEADER:
                return [*lines[:-1], set_cell_size(lines[-1], CELL - 2).rstrip() + "…"]
            lines.append("")
        lines[-1] += character
    return lines


def _name(trace: LayerTrace, token: int) -> str:
    """A token's text for a narrow column, without the spaces around it unless it consists only of spaces."""
    text = trace.text(token)
    name = visible(text.strip(" "))
    return quoted(text) if name in ("", "-", "=") else name


def _legend(trace: LayerTrace, plain: bool) -> Iterator[Text]:
    if trace.settings.get("divergence", "jsd") == "jsd":
        meaning = "Jensen-Shannon divergence of each layer from the last, in nats (0: equal, 0.69: nothing in common)"
    else:
        meaning = "divergence of each layer from the last by the old code's formula, in percent of the largest one here"
    used = f"[ ] the {trace.used_layer}; " if any(token.layer is not None for token in trace.tokens) else ""
    yield Text(f"{meaning}; {used}* a candidate. Each column describes the token after the one above it.")
    if not plain:
        scale = Text("0 ")
        for step in range(24):
            scale.append(" ", style=Style(bgcolor=hexadecimal(colour(step / 23))))
        yield scale + Text(f" {trace.scale:.2g}")
    first = "the contrast's" if trace.by_dola else f"{trace.method_name}'s"
    choices = f"last: the last layer's first choice; {_chosen(trace)}: {first} first choice, = if it is the same."
    yield Text(f"{choices}{_room(trace)}")


def _room(trace: LayerTrace) -> str:
    """In how many columns the method had a choice, as a sentence after others."""
    single, columns = sum(token.plausible_count == 1 for token in trace.tokens), len(trace.tokens)
    if single:
        where = "the only column" if columns == 1 else f"{single} of {columns} columns"
        return f" In {where} just one token is plausible, so no earlier layer can change the choice there."
    if not trace.by_dola:
        return ""
    where = "the only column" if columns == 1 else f"all {columns} columns"
    return f" Several tokens are plausible in {where}: DoLa has a choice."


def _uses(trace: LayerTrace) -> Iterator[Text]:
    """How often each layer was used, as a sentence; nothing where the marks of a few columns show it."""
    if (uses := trace.uses()).total() < MANY:
        return
    (most, columns), *others = uses.most_common()
    more = "".join(f", layer {layer} in {number}" for layer, number in others)
    without = sum(token.layer is None and token.plausible_count != 1 for token in trace.tokens)
    none = f", none in {without}" if without else ""
    yield Text(f"Where there is a choice, layer {most} was used in {columns} columns{more}{none}.")


def _chosen(trace: LayerTrace) -> str:
    """The label of the method's own choices, which has little room."""
    return trace.method_name if trace.by_dola else "chosen"
