"""Renders a trace as one self-contained page: style, script and data are inlined, and nothing is fetched.

The page's texts are made here, so that the browser only lays out text that is safe to show.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dola.plot.colours import CIVIDIS, hexadecimal
from dola.plot.inline import inlined, script_data
from dola.text.token_text import visible

if TYPE_CHECKING:
    from dola.tracing.data import LayerTrace


def page(traces: Sequence[LayerTrace]) -> str:
    """HTML of some traces, side by side if there is room."""
    title = "; ".join(dict.fromkeys(visible(trace.prompt)[:60] for trace in traces))
    parts = {
        "title": html.escape(f"dola trace: {title}"),
        "style": _file("page.css"),
        "data": script_data(page_data(traces)),
        "script": _file("page.js"),
    }
    return inlined(_file("page.html"), parts)


def frame(traces: Sequence[LayerTrace]) -> str:
    """The page in its own sandboxed frame, for notebooks, so that it cannot access anything around it."""
    style = 'style="width: 100%; height: 42rem; border: 0" sandbox="allow-scripts" title="layer trace"'
    return f'<iframe {style} srcdoc="{html.escape(page(traces))}"></iframe>'


def page_data(traces: Sequence[LayerTrace]) -> dict[str, Any]:
    """The data that the page's script draws. Its texts are safe to show and are inserted as text."""
    return {"colours": [hexadecimal(colour) for colour in CIVIDIS], "traces": [_data(trace) for trace in traces]}


def _data(trace: LayerTrace) -> dict[str, Any]:
    found = replace(trace, without_lens=None).as_dict()  # each reading is drawn as a trace of its own
    return {
        **found,
        "title": visible(f"{trace.model}: {trace.title}"),
        "prompt": visible(trace.prompt),
        "scale": trace.scale,
        "words": {"method": trace.method_name, "layer": trace.used_layer, "dola": trace.by_dola},
        "telling": trace.telling(),
        "texts": {token: visible(text) for token, text in found["texts"].items()},
        "explanations": [trace.explain(index) for index in range(len(trace.tokens))],
    }


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
