"""DoLa: decode by contrasting layers (arXiv 2309.03883), for any Hugging Face causal language model.

Names are imported when they are first used (PEP 562), so that `dola --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dola._version import __version__

if TYPE_CHECKING:
    from dola.decoding.attach import Attachment, attach
    from dola.decoding.generate import generate, install, uninstall
    from dola.errors import DolaError
    from dola.evidence.tune import tune
    from dola.lens.fit import fit_lens
    from dola.lens.lens import Lens
    from dola.loading.models import load
    from dola.methods.config import DoLaConfig
    from dola.methods.config_confident import ConfidentConfig
    from dola.methods.config_delta import DeLTaConfig
    from dola.methods.config_sled import SLEDConfig
    from dola.model.anatomy import Anatomy
    from dola.scoring.recipe import Recipe
    from dola.scoring.score import score
    from dola.tracing.data import LayerTrace
    from dola.tracing.trace import trace

__all__ = [
    "Anatomy",
    "Attachment",
    "ConfidentConfig",
    "DeLTaConfig",
    "DoLaConfig",
    "DolaError",
    "LayerTrace",
    "Lens",
    "Recipe",
    "SLEDConfig",
    "__version__",
    "attach",
    "fit_lens",
    "generate",
    "install",
    "load",
    "score",
    "trace",
    "tune",
    "uninstall",
]

_HOME = {
    "Anatomy": "model.anatomy",
    "Attachment": "decoding.attach",
    "ConfidentConfig": "methods.config_confident",
    "DeLTaConfig": "methods.config_delta",
    "DoLaConfig": "methods.config",
    "DolaError": "errors",
    "LayerTrace": "tracing.data",
    "Lens": "lens.lens",
    "Recipe": "scoring.recipe",
    "SLEDConfig": "methods.config_sled",
    "attach": "decoding.attach",
    "fit_lens": "lens.fit",
    "generate": "decoding.generate",
    "install": "decoding.generate",
    "load": "loading.models",
    "score": "scoring.score",
    "trace": "tracing.trace",
    "tune": "evidence.tune",
    "uninstall": "decoding.generate",
}
"""The module that each exported name lives in."""

_SUBMODULES = ("anatomy", "config", "contrast", "errors", "layers", "models")
"""Modules that `import dola` alone makes reachable as `dola.errors` and so on."""


_ALONE = ("config", "errors", "layers", "methods.layers")
"""Modules that need neither torch nor transformers."""


def __getattr__(name: str) -> Any:
    if name not in _HOME and name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME.get(name, name) not in _ALONE:
        import_module(f"{__name__}.installed.versions").check()  # before an import fails deep inside transformers
    if name in _SUBMODULES:
        return import_module(f"{__name__}.{name}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
