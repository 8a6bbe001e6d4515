"""The idea of DoLa, as pure functions: `dola.methods.contrast`, with its divergences and vocabularies."""

from dola.methods.contrast import *  # noqa: F403
from dola.methods.divergences import *  # noqa: F403
from dola.methods.floors import *  # noqa: F403
from dola.methods.vocabulary import *  # noqa: F403
