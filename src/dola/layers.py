"""Which layers are contrasted: `dola.methods.layers`."""

from dola.methods.layers import *  # noqa: F403
