"""Models that are loaded once, for everybody who uses the page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from dola.errors import InputError
from dola.loading.models import LoadedModel

KEPT = 2
"""Models that stay loaded; of more, the one that was used least recently makes room."""


class Models:
    """Loads each model once, whoever asks first; others who ask meanwhile wait for the same load.

    Args:
        load: Loads a model by name.
        allowed: The names that may be asked for; without them, any.
    """

    def __init__(self, load: Callable[[str], LoadedModel], allowed: Sequence[str] | None = None) -> None:
        self._load, self._allowed = load, allowed
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def has(self, name: str) -> bool:
        """Whether a model is there already."""
        return name in self._loaded

    def get(self, name: str) -> LoadedModel:
        """A model, loaded now if need be.

        Raises:
            InputError: No name, or one that is not allowed here.
            DolaError: As `dola.load`. The next one who asks tries again.
        """
        if not name or (self._allowed is not None and name not in self._allowed):
            there = f"there are {', '.join(self._allowed)}" if self._allowed else "an alias, a hub id or a folder is needed"
            raise InputError(f"There is no model {name!r} here; {there}.", hint="choose a model from the list")
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if (found := self._loaded.get(name)) is None:
                found = self._load(name)
        with self._lock:
            self._loaded[name] = found
            self._loaded.move_to_end(name)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)  # whoever still decodes with it has it until the end
        return found
