"""The page's layout in Gradio: its components, and the events that fill them. `session.py` does the work."""

from __future__ import annotations

import html
import itertools
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

# Gradio reads these when it is imported: nothing from a user's own page leaves their machine.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import gradio as gr

from dola.methods.names import RECOMMENDED_PENALTY
from dola.plot.html import page, page_data
from dola.tracing.data import LayerTrace
from dola.tracing.trace_file import write_traces
from dola.ui.choice import layers_field, method_field, settings_fields, settings_of_form, switched
from dola.ui.request import Limits, Request
from dola.ui.session import Session
from dola.ui.view import WAYS, View, answer_html, message_html

EXAMPLES = (
    "On what date was the Declaration of Independence officially signed?",
    "What is the capital of Washington State?",
    "Who wrote the play Hamlet, and when?",
    "Name the first woman to win a Nobel Prize, and what she won it for.",
)
LAYERS_FRAME = (
    '<iframe src="layers" title="What each layer says of each token" sandbox="allow-scripts" class="dola-layers"></iframe>'
)
SYSTEM_FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
"""Gradio's own themes fetch theirs from Google."""
COLOURS = {
    "button_primary_background_fill button_primary_background_fill_dark": "#0550ae",
    "button_primary_background_fill_hover button_primary_background_fill_hover_dark": "#033d8b",
    "button_primary_text_color button_primary_text_color_dark": "#ffffff",
    "body_background_fill": "#ffffff",
    "body_background_fill_dark": "#0d1117",
    "block_background_fill_dark background_fill_secondary_dark": "#161b22",
    "border_color_primary block_border_color": "#d0d7de",
    "border_color_primary_dark block_border_color_dark": "#30363d",
    "input_background_fill_dark": "#0d1117",
    "body_text_color block_title_text_color": "#1b1f24",
    "body_text_color_dark block_title_text_color_dark": "#e6edf3",
    "body_text_color_subdued block_info_text_color block_label_text_color input_placeholder_color": "#57606a",
    "body_text_color_subdued_dark block_info_text_color_dark block_label_text_color_dark": "#9ba5b0",
    "input_placeholder_color_dark": "#9ba5b0",
}
"""The colors of `plot/page.css`, with enough contrast for small text."""


def theme() -> Any:
    """Gradio's plainest theme in the colors of the trace page, without web fonts."""
    fonts, mono = SYSTEM_FONTS
    made = gr.themes.Base(font=fonts, font_mono=mono, primary_hue="blue", neutral_hue="slate", radius_size="sm")
    return made.set(**{name: value for names, value in COLOURS.items() for name in names.split()})


def style() -> str:
    """The page's own style."""
    return _file("style.css")


def empty_layers() -> str:
    """The content of the frame before the first trace."""
    return page([])


def build(session: Session, *, model: str, models: Sequence[str], choose: bool = True) -> Any:
    """Build the page.

    Args:
        session: The session that does its work.
        model: The initially selected model.
        models: Models to choose from.
        choose: Whether users may name any other model.
    """
    with gr.Blocks(title="dola: see the layers", delete_cache=(3600, 6 * 3600), analytics_enabled=False) as blocks:
        gr.HTML(_head(session.limits), elem_classes="dola-head")
        with gr.Row(elem_classes="dola-form"):
            with gr.Column(scale=3, min_width=320):
                prompt = gr.Textbox(label="Prompt", lines=3, max_lines=12, value=EXAMPLES[0], placeholder="Ask something")
                gr.Examples([[example] for example in EXAMPLES], prompt, label="Examples")
                with gr.Row():
                    start = gr.Button("Generate", variant="primary", elem_id="generate")
                    stop = gr.Button("Stop", interactive=False, elem_id="stop")
            with gr.Column(scale=2, min_width=320):
                fields = {"prompt": prompt, **_settings(session.limits, model, models, choose)}
        message = gr.HTML(message_html(View(status="Ready.")), elem_id="message")
        with gr.Row(equal_height=True):
            with gr.Column(min_width=320):
                greedy = gr.HTML(_answer("greedy", View()), elem_id="greedy")
            with gr.Column(min_width=320):
                ours = gr.HTML(_answer("dola", View()), elem_id="dola")
        with gr.Row(elem_classes="dola-files"):
            save = gr.DownloadButton("Save the traces", interactive=False, size="sm", elem_id="save")
            export = gr.DownloadButton("Save as a page", interactive=False, size="sm", elem_id="export")
            opener = gr.UploadButton("Open a trace", file_types=[".json", ".jsonl"], size="sm", elem_id="open")
        layers = gr.HTML(None, html_template=LAYERS_FRAME, js_on_load=_file("layers.js"), elem_id="layers")
        shown = [message, greedy, ours, layers, start, stop, save, export]

        def answer(request: gr.Request, *values: Any) -> Iterator[list[Any]]:
            before: tuple[LayerTrace, ...] | None = None
            asked = _request(dict(zip(fields, values, strict=True)))
            for view in session.answer(asked, request.session_hash or ""):
                yield _updates(view, before)
                before = view.traces

        def stop_mine(request: gr.Request) -> None:
            session.stop(request.session_hash or "")

        def open_file(path: str) -> list[Any]:
            return _updates(session.open(Path(path), Path(path).name), None)

        unlisted: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        limit = session.limits.at_once
        gr.on([start.click, prompt.submit], answer, [*fields.values()], shown, concurrency_limit=limit, **unlisted)
        stop.click(stop_mine, queue=False, **unlisted)
        opener.upload(open_file, opener, shown, **unlisted)
        blocks.unload(stop_mine)
    return blocks


def _settings(limits: Limits, model: str, models: Sequence[str], choose: bool) -> dict[str, Any]:
    """The other fields, by the names of `Request`'s."""
    usual = Request()
    found = {
        "model": gr.Dropdown(
            [*dict.fromkeys([model, *models])], value=model, label="Model", allow_custom_value=choose,
            info="An alias, a hub id or a folder." if choose else None,
        ),
        "method": method_field(usual.method),
        "layers": layers_field(usual.method, usual.layers),
        "new_tokens": gr.Slider(
            1, limits.new_tokens, value=min(usual.new_tokens, limits.new_tokens), step=1, label="Maximum new tokens"
        ),
    }  # fmt: skip
    with gr.Accordion("More settings", open=False):
        found |= {
            "chat": gr.Checkbox(
                usual.chat, label="Chat template", info="Ask as a user of the model's chat, if it has one."
            ),
            "repetition_penalty": gr.Slider(
                1, 2, value=usual.repetition_penalty, step=0.05, label="Repetition penalty",
                info=f"For both answers. DoLa's paper uses {RECOMMENDED_PENALTY}.",
            ),
        }  # fmt: skip
        settings, groups = settings_fields(usual.method, lens=limits.lens)
    found["method"].change(
        switched, found["method"], [found["method"], found["layers"], *groups],
        queue=False, api_visibility="private", show_progress="hidden",
    )  # fmt: skip
    return found | settings


def _request(fields: Mapping[str, Any]) -> Request:
    """The request of the form. Gradio gives None for an emptied text."""
    method = str(fields["method"] or Request.method)
    return Request(
        model=str(fields["model"] or "").strip(),
        prompt=fields["prompt"] or "",
        chat=bool(fields["chat"]),
        layers=str(fields["layers"] or ""),
        settings=settings_of_form(method, fields),
        repetition_penalty=float(fields["repetition_penalty"]),
        new_tokens=int(fields["new_tokens"]),
        method=method,
    )


def _updates(view: View, before: tuple[LayerTrace, ...] | None) -> list[Any]:
    """The updates that a view makes to `shown` in `build`; the traces only if they differ from `before`."""
    counts = [] if before is None else [len(trace.tokens) for trace in before]
    changed = before is None or counts != [len(trace.tokens) for trace in view.traces]
    save, export = (None, None) if view.running or not view.traces else _saved(view.traces)
    return [
        message_html(view),
        _answer("greedy", view),
        _answer("dola", view),
        page_data(view.traces) if changed else gr.skip(),
        gr.update(interactive=not view.running),
        gr.update(interactive=view.running),
        gr.update(value=save, interactive=save is not None),
        gr.update(value=export, interactive=export is not None),
    ]


def _answer(way: str, view: View) -> str:
    names = {"greedy": ("Greedy", "the last layer's first choice"), "dola": (view.method, "marked from where it leaves greedy")}
    name, what = (html.escape(each) for each in names[way])
    shown = answer_html(view.answers[WAYS.index(way)], running=view.running, mark=way == "dola")
    return f'<section class="dola-card" aria-label="{name}"><h2>{name} <span>{what}</span></h2>{shown}</section>'


_numbers = itertools.count()
_folder = tempfile.TemporaryDirectory(prefix="dola-ui-")


def _saved(traces: Sequence[LayerTrace]) -> tuple[str, str]:
    """Files of some traces for download: the traces, and a page of them. Gradio keeps copies for some hours."""
    folder = Path(_folder.name, str(next(_numbers)))
    folder.mkdir()
    data, shown = folder / "dola-trace.jsonl", folder / "dola-trace.html"
    write_traces(traces, data)
    shown.write_text(page(traces), encoding="utf-8")
    return str(data), str(shown)


def _head(limits: Limits) -> str:
    return (
        "<h1>dola <span>see the layers</span></h1>"
        "<p>One prompt, answered twice by the same model: greedily, and by a method that reads its layers, "
        "with the same repetition penalty. "
        f"Prompts have up to {limits.prompt_tokens:,} tokens, answers up to {limits.new_tokens:,}.</p>"
    )


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
