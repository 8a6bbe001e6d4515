"""Loads each model once, for all users of the page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from dola.errors import InputError
from dola.loading.models import LoadedModel

KEPT = 2
"""Number of models that stay loaded; beyond it, the least recently used one is dropped."""


class Models:
    """Loads each model once; concurrent requests wait for the same load.

    Args:
        load: Loads a model by name.
        allowed: The names that may be requested; None allows any.
    """

    def __init__(self, load: Callable[[str], LoadedModel], allowed: Sequence[str] | None = None) -> None:
        self._load, self._allowed = load, allowed
        self._loaded: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def has(self, name: str) -> bool:
        """Whether a model is already loaded."""
        return name in self._loaded

    def get(self, name: str) -> LoadedModel:
        """A model, loaded now if necessary.

        Raises:
            InputError: The name is empty or not allowed here.
            DolaError: See `dola.load`. The next request tries again.
        """
        if not name or (self._allowed is not None and name not in self._allowed):
            allowed = ", ".join(self._allowed) if self._allowed else "an alias, a hub id or a folder"
            raise InputError(f"No model {name!r} here. Allowed: {allowed}.", hint="choose a model from the list")
        with self._lock:
            lock = self._locks.setdefault(name, threading.Lock())
        with lock:
            if (found := self._loaded.get(name)) is None:
                found = self._load(name)
        with self._lock:
            self._loaded[name] = found
            self._loaded.move_to_end(name)
            while len(self._loaded) > KEPT:
                self._loaded.popitem(last=False)  # requests that still use it keep it until they end
        return found
