"""Decoding methods and their settings. Derive from `MethodConfig` and `Method` to add your own: docs/add-a-method.md.

Names are imported when they are first used, so settings can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dola.methods.config import MethodConfig
    from dola.methods.facts import setting
    from dola.methods.method import Candidates, Method
    from dola.methods.registry import METHODS, config_of
    from dola.methods.vocabulary import WHOLE, Vocabulary, wide

__all__ = ["METHODS", "WHOLE", "Candidates", "Method", "MethodConfig", "Vocabulary", "config_of", "setting", "wide"]

_HOME = {
    "METHODS": "registry",
    "WHOLE": "vocabulary",
    "Candidates": "method",
    "Method": "method",
    "MethodConfig": "config",
    "Vocabulary": "vocabulary",
    "config_of": "registry",
    "setting": "facts",
    "wide": "vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
