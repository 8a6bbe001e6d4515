"""Describes the page's widgets for a method's settings without Gradio; `page.py` builds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig
    from dola.methods.facts import Setting


def offered(kind: type[MethodConfig]) -> list[Setting]:
    """The settings that have a widget."""
    return [each for each in kind.options() if each.kind is not object]


def widget(setting: Setting) -> tuple[str, dict[str, Any]]:
    """The widget of a setting, by its type and the values that it allows: the name of Gradio's class, and its arguments."""
    facts = setting.facts
    shown: dict[str, Any] = {"value": setting.default, "label": setting.label, "info": setting.info or None}
    if setting.kind is bool:
        return "Checkbox", shown
    if setting.choices:
        return "Radio", {"choices": list(setting.choices), **shown}
    if setting.kind is str:
        return "Textbox", shown
    limits = {"minimum": facts.low, "maximum": facts.high}
    if facts.low is None or facts.high is None:
        return "Number", {**limits, "precision": 0 if setting.kind is int else None, **shown}
    return "Slider", {**limits, "step": 1 if setting.kind is int else 0.01, **shown}


def asked(setting: Setting, value: Any) -> Any:
    """The value of a widget in the form that the configuration expects. An empty one gives the default."""
    if value is None or (value == "" and setting.optional):
        return setting.default
    return setting.kind(value)
