"""The pictures in docs/screens: figures, the page of a trace, a terminal. `make screens` runs it; look at what it makes.

Needs the embedded model, matplotlib, rich and the extra `browser` with a Chromium. No number here is a measurement.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import dola
from dola import LayerTrace
from dola.plot import figure
from dola.plot.html import page as page_of
from dola.plot.terminal import render

HERE = Path(__file__).parent
SCREENS = HERE / "screens"
LARGEST = 300_000
SENTENCE = "Wole Soyinka was the first African to be awarded the Nobel Prize in Literature in 1986"
QUESTION = "What is the capital of Washington State?"
OLYMPIA = "The capital of Washington State is the city of Olympia"

sys.path.insert(0, str(HERE.parent / "tests"))
from browser import chromium  # noqa: E402, which finds the browser for the tests as well


def figures(sentence: LayerTrace, olympia: LayerTrace) -> None:
    """The heatmap, the line plot and the histogram, each alone."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    index = next(i for i, token in enumerate(olympia.tokens) if olympia.text(token.token) == " Olymp")
    drawings = {
        "heatmap": ((12, 4.2), lambda axes: figure.heatmap(axes, sentence)),
        "olympia": ((8, 3.6), lambda axes: figure.probabilities(axes, olympia, index)),
        "layers": ((5, 3), lambda axes: figure.layer_histogram(axes, sentence)),
    }
    for name, (size, draw) in drawings.items():
        with rc_context({"text.parse_math": False}):
            made = Figure(figsize=size, layout="constrained")
            draw(made.subplots())
            made.savefig(SCREENS / f"{name}.png", dpi=100)


def terminal(trace: LayerTrace) -> str:
    """What `dola trace` prints in 80 columns, as a page."""
    from rich.console import Console
    from rich.terminal_theme import MONOKAI

    console = Console(width=80, record=True, force_terminal=True, color_system="truecolor", file=io.StringIO(), highlight=False)
    render(console, trace)
    return console.export_html(theme=MONOKAI, inline_styles=True)


def pictures(html: dict[str, str]) -> None:
    """The pages as they look in a browser."""
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:

        def shoot(name: str, html: str, width: int, scheme: str = "light", height: int = 600, *, whole: bool = True) -> None:
            path = Path(folder, f"{name}.html")
            path.write_text(html, encoding="utf-8")
            context = browser.new_context(
                color_scheme=scheme, viewport={"width": width, "height": height}, reduced_motion="reduce"
            )
            tab = context.new_page()
            tab.goto(path.as_uri())
            _point(tab)
            tab.screenshot(path=SCREENS / f"{name}.png", full_page=whole)
            context.close()

        shoot("page-light", html["sentence"], 1300)
        shoot("page-dark", html["sentence"], 1300, "dark")
        shoot("page-pair", html["pair"], 1300)
        shoot("page-narrow", html["sentence"], 390)
        shoot("terminal", html["terminal"], 720, height=400)


def _point(tab: Any) -> None:
    """Pin the most telling token, and look at its premature layer."""
    cell = tab.locator("td.cell[tabindex='0']")
    if cell.count():
        cell.first.click()
        tab.evaluate("document.activeElement.blur()")


def shrink(path: Path) -> None:
    """Keep 256 colors."""
    from PIL import Image

    with Image.open(path) as picture:
        made = picture.convert("RGB").quantize(256, method=Image.Quantize.FASTOCTREE)
    made.save(path, optimize=True)


def main() -> None:
    """Make all pictures."""
    SCREENS.mkdir(exist_ok=True)
    model, tokenizer = dola.load("smollm2")
    texts = SENTENCE, OLYMPIA, OLYMPIA.removesuffix(" Olympia")
    sentence, olympia, short = (dola.trace(model, tokenizer, text, "high") for text in texts)
    asked = [{"role": "user", "content": QUESTION}]
    prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
    pair = [dola.trace(model, tokenizer, prompt, "high", generate=13, decode=way) for way in ("greedy", "dola")]
    figures(sentence, olympia)
    pictures({"sentence": page_of([sentence]), "pair": page_of(pair), "terminal": terminal(short)})
    for path in sorted(SCREENS.glob("*.png")):
        shrink(path)
        size = path.stat().st_size
        print(f"{path.relative_to(HERE.parent)}: {size:,} bytes")
        if size > LARGEST:
            sys.exit(f"{path.name} is larger than {LARGEST:,} bytes")


if __name__ == "__main__":
    main()
