"""DoLa: decode by contrasting layers (arXiv 2309.03883), for any Hugging Face causal language model."""

from dola.anatomy import Anatomy
from dola.attach import Attachment, attach
from dola.config import DoLaConfig
from dola.errors import DolaError
from dola.generate import generate, install, uninstall
from dola.models import load

__version__ = "0.1.0"

__all__ = [
    "Anatomy",
    "Attachment",
    "DoLaConfig",
    "DolaError",
    "__version__",
    "attach",
    "generate",
    "install",
    "load",
    "uninstall",
]
