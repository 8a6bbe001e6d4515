"""DoLa: decode by contrasting layers (arXiv 2309.03883), for any Hugging Face causal language model.

Names are imported when they are first used (PEP 562), so that `dola --help` does not wait for torch.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dola.anatomy import Anatomy
    from dola.attach import Attachment, attach
    from dola.config import DoLaConfig
    from dola.errors import DolaError
    from dola.generate import generate, install, uninstall
    from dola.layer_trace import LayerTrace
    from dola.models import load
    from dola.recipe import Recipe
    from dola.score import score
    from dola.trace import trace
    from dola.tune import tune

__version__ = "0.1.0"

__all__ = [
    "Anatomy",
    "Attachment",
    "DoLaConfig",
    "DolaError",
    "LayerTrace",
    "Recipe",
    "__version__",
    "attach",
    "generate",
    "install",
    "load",
    "score",
    "trace",
    "tune",
    "uninstall",
]

_HOME = {
    "Anatomy": "anatomy",
    "Attachment": "attach",
    "DoLaConfig": "config",
    "DolaError": "errors",
    "LayerTrace": "layer_trace",
    "Recipe": "recipe",
    "attach": "attach",
    "generate": "generate",
    "install": "generate",
    "load": "models",
    "score": "score",
    "trace": "trace",
    "tune": "tune",
    "uninstall": "generate",
}
"""The module that each exported name lives in."""

_SUBMODULES = ("anatomy", "config", "contrast", "errors", "generation", "layers", "models")
"""Modules that `import dola` alone makes reachable as `dola.errors` and so on."""

_ALONE = ("errors", "layers")
"""Modules that do without torch and transformers."""


def __getattr__(name: str) -> Any:
    if name not in _HOME and name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if (home := _HOME.get(name, name)) not in _ALONE:
        import_module(f"{__name__}.versions").check()  # before an import fails in the depths of transformers
    module = import_module(f"{__name__}.{home}")
    if name in _SUBMODULES:
        return module
    value = getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})


class _Package(ModuleType):
    """This package, in which a submodule does not hide the function of its name.

    Importing `dola.attach` makes Python set the attribute `attach` of `dola` to the module; the function is what people mean.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOME.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
