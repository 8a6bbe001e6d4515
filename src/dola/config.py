"""How DoLa decodes: `dola.methods.config`."""

from dola.methods.config import *  # noqa: F403
