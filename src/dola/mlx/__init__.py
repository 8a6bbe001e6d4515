"""DoLa for MLX: the same methods for models that `mlx_lm.load` gives, on Apple silicon and on CPUs.

Names are imported when they are first used (PEP 562). Importing this package imports neither torch nor MLX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dola.methods.config import DoLaConfig
    from dola.methods.config_confident import ConfidentConfig
    from dola.methods.config_delta import DeLTaConfig
    from dola.methods.config_sled import SLEDConfig
    from dola.mlx.decode import batch_generate, generate, stream_generate
    from dola.mlx.loading import load
    from dola.mlx.session import Attachment, attach

__all__ = [
    "Attachment",
    "ConfidentConfig",
    "DeLTaConfig",
    "DoLaConfig",
    "SLEDConfig",
    "attach",
    "batch_generate",
    "generate",
    "load",
    "stream_generate",
]

_HOME = {
    "Attachment": "mlx.session",
    "ConfidentConfig": "methods.config_confident",
    "DeLTaConfig": "methods.config_delta",
    "DoLaConfig": "methods.config",
    "SLEDConfig": "methods.config_sled",
    "attach": "mlx.session",
    "batch_generate": "mlx.decode",
    "generate": "mlx.decode",
    "load": "mlx.loading",
    "stream_generate": "mlx.decode",
}
"""The module that each exported name lives in."""


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name].startswith("mlx."):
        import_module("dola.mlx.need").check()  # before an import fails deep inside MLX
    value = globals()[name] = getattr(import_module(f"dola.{_HOME[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
