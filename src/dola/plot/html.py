"""A trace as one self-contained page: style, script and data are inlined, and nothing is fetched.

The page's texts are put together here, so that the browser only lays out what is already safe to show.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dola.files.json_text import dumps
from dola.plot.colours import CIVIDIS, hexadecimal
from dola.text.token_text import visible

if TYPE_CHECKING:
    from dola.tracing.data import LayerTrace


def page(traces: Sequence[LayerTrace]) -> str:
    """HTML of some traces, side by side where there is room."""
    title = "; ".join(dict.fromkeys(visible(trace.prompt)[:60] for trace in traces))
    parts = {
        "title": html.escape(f"dola trace: {title}"),
        "style": _file("page.css"),
        "data": dumps(page_data(traces)).replace("<", "\\u003c"),  # no text can end the element that it stands in
        "script": _file("page.js"),
    }
    made = _file("page.html")
    for name, part in sorted(parts.items(), key=lambda each: each[0] == "data"):  # data last: it may hold a placeholder
        made = made.replace(f"<!-- {name} -->", part)
    return made


def frame(traces: Sequence[LayerTrace]) -> str:
    """The page in a frame of its own, for notebooks: sandboxed, so that it can touch nothing around it."""
    style = 'style="width: 100%; height: 42rem; border: 0" sandbox="allow-scripts" title="layer trace"'
    return f'<iframe {style} srcdoc="{html.escape(page(traces))}"></iframe>'


def page_data(traces: Sequence[LayerTrace]) -> dict[str, Any]:
    """What the page's script draws: its texts are safe to show, and put in as text."""
    return {"colours": [hexadecimal(colour) for colour in CIVIDIS], "traces": [_data(trace) for trace in traces]}


def _data(trace: LayerTrace) -> dict[str, Any]:
    found = trace.as_dict()
    return {
        **found,
        "title": visible(f"{trace.model}: {trace.title}"),
        "prompt": visible(trace.prompt),
        "scale": trace.scale,
        "telling": trace.telling(),
        "texts": {token: visible(text) for token, text in found["texts"].items()},
        "explanations": [trace.explain(index) for index in range(len(trace.tokens))],
    }


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
