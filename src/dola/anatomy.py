"""Where a model keeps its parts: `dola.model.anatomy`."""

from dola.model.anatomy import *  # noqa: F403
