"""What transformers warns of while it loads a model, for whoever has its log turned off."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

REPORT = "LOAD REPORT"
"""In the table of weights, which `weights.py` has from transformers as lists."""
OTHERS = ("transformers.generation",)
"""Loggers whose subject is checked elsewhere: a model's generation config."""
LONGEST = 400
"""Characters of a warning that are passed on."""

LOG = logging.getLogger("transformers")
_LOCK = threading.Lock()
_OPEN: list[logging.Handler] = []
_SAVED: list[Any] = []
"""How the log was before the first of several loads at once; the last one to end puts that back."""


@contextmanager
def passed_on(say: Callable[[str], None] | None) -> Iterator[None]:
    """Pass what transformers warns of inside on to `say`, a line for each warning, whatever its verbosity is.

    Without `say` its log is left as it is.
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
    """Says each warning once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self._say, self._said = say, set[str]()

    def emit(self, record: logging.LogRecord) -> None:
        line = " ".join(record.getMessage().split())
        if REPORT in line or record.name.startswith(OTHERS) or line in self._said:
            return
        self._said.add(line)
        self._say(f"transformers warns: {line if len(line) <= LONGEST else line[:LONGEST] + ' ...'}")
