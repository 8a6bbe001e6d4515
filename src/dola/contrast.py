"""The idea of DoLa, as pure functions: `dola.methods.contrast`."""

from dola.methods.contrast import *  # noqa: F403
