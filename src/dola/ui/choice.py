"""The page's choice of a method: its name, what it does, its layers, and a group of widgets for the settings of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from dola.methods.config import DoLaConfig
from dola.methods.layers import BUCKETS, spelled
from dola.methods.registry import METHODS
from dola.ui.form import asked, offered, widget


def method_field(chosen: str) -> Any:
    """The choice itself."""
    choices = [(kind.label(), name) for name, kind in METHODS.items()]
    return gr.Dropdown(choices, value=chosen, label="Method", info=_what(chosen), elem_id="method")


def layers_field(method: str, layers: str) -> Any:
    """The choice of layers: names, or numbers."""
    return gr.Dropdown(
        list(dict.fromkeys([layers, *_names(method)])), value=layers, label="Layers", allow_custom_value=True,
        info=_layers_info(method), elem_id="chosen-layers",
    )  # fmt: skip


def settings_fields(chosen: str, *, lens: bool = True) -> tuple[dict[str, Any], list[Any]]:
    """Widgets of all methods' settings, by "method.setting", and a group for each method: that of the chosen one shows.

    Without `lens` that widget does not show, and a request that names one is refused.
    """
    fields, groups = {}, []
    for name, kind in METHODS.items():
        with gr.Group(visible=name == chosen) as group:
            for each in offered(kind):
                made, described = widget(each)
                described |= {} if lens or each.name != "lens" else {"visible": False}
                fields[f"{name}.{each.name}"] = getattr(gr, made)(**described)
        groups.append(group)
    return fields, groups


def switched(method: str) -> list[Any]:
    """What choosing a method changes: its sentence, its layers, and which group shows."""
    layers = _usual_layers(method)
    names = list(dict.fromkeys([layers, *_names(method)]))
    return [
        gr.update(info=_what(method)),
        gr.update(value=layers, choices=names, info=_layers_info(method)),
        *(gr.update(visible=name == method) for name in METHODS),
    ]


def settings_of_form(method: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a method that its widgets say."""
    return {each.name: asked(each, fields[f"{method}.{each.name}"]) for each in offered(METHODS[method])}


def _what(method: str) -> str:
    kind = METHODS[method]
    return f"{kind.label()} {kind.summary}."


def _usual_layers(method: str) -> str:
    default = next(each.default for each in METHODS[method].settings() if each.name == "layers")
    return "all" if default is None else spelled(default)


def _names(method: str) -> list[str]:
    return list(BUCKETS) if method == DoLaConfig.method else ["all", "last:4", "last:10"]


def _layers_info(method: str) -> str:
    if method == DoLaConfig.method:
        return "high for short answers, low for longer reasoning, all, or numbers: 24,28."
    return "all, the last ones (last:10), or numbers: 24,28."
