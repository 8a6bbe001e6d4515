"""Passes on transformers' warnings while it loads a model, even if its log is turned off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REPORT = "LOAD REPORT"
"""Marks transformers' table of weights, which `weights.py` reads as lists instead."""
OTHERS = ("transformers.generation",)
"""Loggers of a model's generation config, which dola checks elsewhere."""
LONGEST = 400
"""The most characters of one warning that are passed on."""

LOG = logging.getLogger("transformers")
_LOCK = threading.Lock()
_OPEN: list[logging.Handler] = []
_SAVED: list[Any] = []
"""The state of the log before the first of several concurrent loads; the last load to end restores it."""


@contextmanager
def passed_on(say: Callable[[str], None] | None) -> Iterator[None]:
    """Pass transformers' warnings to `say`, one line each, whatever its verbosity.

    Without `say`, its log is left unchanged.
    """
    if say is None:
        yield
        return
    handler = _Lines(say)
    with _LOCK:
        if not _OPEN:
            _SAVED[:] = [LOG.level, list(LOG.handlers), LOG.propagate]
            LOG.handlers[:], LOG.propagate = [], False
            LOG.setLevel(logging.WARNING)
        _OPEN.append(handler)
        LOG.addHandler(handler)
    try:
        yield
    finally:
        with _LOCK:
            _OPEN.remove(handler)
            LOG.removeHandler(handler)
            if not _OPEN:
                level, LOG.handlers[:], LOG.propagate = _SAVED
                LOG.setLevel(level)


class _Lines(logging.Handler):
    """Passes on each warning once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say, self._said = say, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        if REPORT in line or record.name.startswith(OTHERS) or line in self._said:
            return
        self._said.add(line)
        self._say(f"transformers warns: {line if len(line) <= LONGEST else line[:LONGEST] + ' ...'}")
