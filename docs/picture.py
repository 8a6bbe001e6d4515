"""The picture at the top of the README: `dola compare` in a terminal, once dark and once light. `make picture` runs it.

The command runs in a pseudo-terminal, and what it prints becomes an SVG. The fonts are the reader's own.
The answers are those of the embedded model on every machine; the speeds are those of the machine that made the picture.
"""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme
from rich.text import Text

SCREENS = Path(__file__).parent / "screens"
WIDTH = 118
COMMAND = 'dola compare "On what date was the Declaration of Independence officially signed?" --layers high'
ARGUMENTS = ["On what date was the Declaration of Independence officially signed?", "--layers", "high"]
FONTS = "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', monospace"


def theme(background: str, text: str, accent: str) -> TerminalTheme:
    """A terminal whose cyan, which marks what greedy decoding did not say, is `accent`."""
    colors = [_rgb(color) for color in (background, "#c0392b", "#2e8b57", "#b8860b", "#3b6fb6", "#8e44ad", accent, text)]
    return TerminalTheme(_rgb(background), _rgb(text), colors, colors)


def _rgb(color: str) -> tuple[int, int, int]:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue


THEMES = {"dark": theme("#16181d", "#d7dae0", "#5fd7e6"), "light": theme("#f6f8fa", "#24292f", "#006d80")}


def printed() -> str:
    """What the command prints on a terminal of WIDTH columns, with its colors."""
    near, far = pty.openpty()
    code = "from dola.cli import main; main()"
    variables = {**os.environ, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    variables.pop("NO_COLOR", None)
    with subprocess.Popen(
        [sys.executable, "-c", code, "compare", *ARGUMENTS], stdin=far, stdout=far, stderr=subprocess.DEVNULL, env=variables
    ) as process:
        os.close(far)
        chunks = []
        try:
            while chunk := os.read(near, 65536):
                chunks.append(chunk)
        except OSError:  # Linux's way to say that the other end is closed
            pass
    if process.returncode:
        sys.exit(f"{COMMAND} failed: {b''.join(chunks).decode()}")
    return b"".join(chunks).decode().replace("\r\n", "\n").strip("\n")


def svg(text: str, name: str) -> str:
    """The screen as an SVG in the colors of one theme."""
    console = Console(
        width=WIDTH, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO(), highlight=False
    )
    console.print(Text.assemble(("$ ", "bold"), COMMAND))
    for line in text.splitlines()[1:]:  # the first one repeats the question
        console.print(Text.from_ansi(line), soft_wrap=True)
    console.print()  # or the last line is cut off below
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    without_fonts = without_fonts.replace("font-family: Fira Code, monospace", f"font-family: {FONTS}")
    made = console.export_svg(title="", theme=THEMES[name], code_format=without_fonts, unique_id=f"compare-{name}")
    return re.sub(r"[ \t]+$", "", made, flags=re.MULTILINE)


def main() -> None:
    """Make both pictures."""
    text = printed()
    for name in THEMES:
        path = SCREENS / f"compare-{name}.svg"
        path.write_text(svg(text, name), "utf-8")
        print(f"{path.relative_to(SCREENS.parents[1])}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
