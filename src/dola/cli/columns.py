"""Prints the answers of `dola compare` in columns and marks the tokens that differ from the first answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dola.cli.output import printable
from dola.text.token_text import UNFINISHED

if TYPE_CHECKING:
    from dola.cli.answers import Answer

COLUMN_WIDTH = 36
"""Minimum width of a column. Columns that do not fit go below: 4 side by side at 160, two and two at 80, one at 40."""

MARK, OPEN, CLOSE = "bold cyan", "{+", "+}"


def differs(first: Sequence[int], token_ids: Sequence[int]) -> tuple[bool, ...]:
    """For each token, whether it lacks a counterpart in `first` after aligning the two sequences."""
    marks = [True] * len(token_ids)
    for block in SequenceMatcher(None, first, token_ids, autojunk=False).get_matching_blocks():
        marks[block.b : block.b + block.size] = [False] * block.size
    return tuple(marks)


def render(console: Console, prompt: str, found: Sequence[Answer]) -> None:
    """Print a prompt with its answers side by side, and what DoLa changed.

    Tokens without a counterpart in the greedy answer are colored or, without color, enclosed in {+ +}.
    """
    plain = console.color_system is None or console.no_color
    console.print(Text("\n" + printable(prompt.strip()), style="bold"))
    for group in _groups(found, console.width):
        # Compact tables: two of them with their legend should fit on a screen of 24 lines.
        table = Table(box=box.MINIMAL_HEAVY_HEAD, show_edge=False, expand=True, padding=(0, 1))
        for header in _headers(group, console.width // len(group) - 3):
            table.add_column(header, ratio=1, overflow="fold")
        table.add_row(*(_marked(answer, plain) for answer in group))
        console.print(table)
        console.print()
    for line in _legend(found, plain):
        console.print(line)


def _groups(found: Sequence[Answer], width: int) -> Iterator[Sequence[Answer]]:
    """Answers grouped into rows of columns, of nearly equal length."""
    rows = -(-len(found) // max(1, width // COLUMN_WIDTH))
    size = -(-len(found) // rows)
    for start in range(0, len(found), size):
        yield found[start : start + size]


def _headers(group: Sequence[Answer], width: int) -> list[Text]:
    """Titles with speeds: on one line where every one of them fits into `width`, else below each other."""
    speeds = [f"{answer.tokens_per_second:.1f} tokens/s" for answer in group]
    fits = all(len(answer.title) + 2 + len(speed) <= width for answer, speed in zip(group, speeds, strict=True))
    gap = "  " if fits else "\n"
    return [Text(answer.title) + Text(gap + speed, style="dim not bold") for answer, speed in zip(group, speeds, strict=True)]


def _marked(answer: Answer, plain: bool) -> Text:
    """An answer with the tokens that differ from the greedy answer marked, without the space around it."""
    text = Text()
    for different, run in _runs(answer):
        if not (different and plain):
            text.append(run, style=MARK if different else "")
            continue
        words = run.strip()
        before, _, after = run.partition(words) if words else (run, "", "")
        text.append(before + (f"{OPEN}{words}{CLOSE}" if words else "") + after)
    if answer.finish_reason == "length":
        text.append(f" {UNFINISHED}", style="dim")
    return text


def _runs(answer: Answer) -> Iterator[tuple[bool, str]]:
    """Stretches of an answer, each marked or not. A character that spans tokens is marked if one of them is."""
    stretches: list[tuple[bool, str]] = []
    waiting = False
    for different, piece in zip(answer.differs, answer.pieces, strict=True):
        waiting |= different
        if not piece:
            continue
        if stretches and stretches[-1][0] == waiting:
            stretches[-1] = (waiting, stretches[-1][1] + piece)
        else:
            stretches.append((waiting, piece))
        waiting = False
    if stretches:
        stretches[0] = (stretches[0][0], stretches[0][1].lstrip())
        stretches[-1] = (stretches[-1][0], stretches[-1][1].rstrip())
    return ((different, printable(run)) for different, run in stretches if run)


def _legend(found: Sequence[Answer], plain: bool) -> Iterator[Text]:
    """The meaning of the marks and, for each DoLa column, what it changed beyond the penalty."""
    mark = (f"{OPEN}marked{CLOSE}", "") if plain else ("marked", MARK)
    control = found[1]
    yield Text.assemble(mark, f": tokens not in greedy's answer. Control: {control.title}.")
    if cut := [len(answer.token_ids) for answer in found if answer.finish_reason == "length"]:
        yield Text(f"{UNFINISHED}: cut at {max(cut)} tokens; --max-new-tokens sets how many.")
    for answer in found[2:]:
        yield Text(_change(answer, control))


def _change(answer: Answer, control: Answer) -> str:
    layers = answer.title.partition(", penalty")[0]
    share = f"{sum(answer.differs)} of its {len(answer.token_ids)} tokens are marked"
    if answer.token_ids == control.token_ids:
        return f"{layers} changed nothing: it has the same tokens as the control."
    pairs = enumerate(zip(answer.token_ids, control.token_ids, strict=False))
    first = next((position for position, (ours, theirs) in pairs if ours != theirs), None)
    if first is None:
        return f"{layers} says the same as the control but ends elsewhere; {share}."
    ours, theirs = (_shown(each, first) for each in (answer, control))
    return f"{layers} diverges from the control at token {first + 1}: {ours}, not {theirs}; {share}."


def _shown(answer: Answer, position: int) -> str:
    """A token for a sentence: its text, its white space as escapes, the character that it is part of, or the end."""
    if answer.pieces[position]:
        return _quoted(answer.pieces[position])
    if position == len(answer.pieces) - 1:
        return "the end" if answer.finish_reason == "stop" else "no text"
    rest = next((piece for piece in answer.pieces[position:] if piece), "")
    return f"part of {_quoted(rest)}" if rest else "no text"


def _quoted(piece: str) -> str:
    words = printable(piece).strip()
    return f'"{words}"' if words else f'"{piece}"' if piece == " " else f'"{piece.encode("unicode_escape").decode()}"'
