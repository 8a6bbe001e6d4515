"""Models by name: `dola.loading.models`."""

from dola.loading.models import *  # noqa: F403
