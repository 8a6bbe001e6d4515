"""What transformers warns of while it loads a model, for whoever has its log turned off."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

REPORT = "LOAD REPORT"
"""In the table of weights, which `weights.py` has from transformers as lists."""
OTHERS = ("transformers.generation",)
"""Loggers whose subject is checked elsewhere: a model's generation config."""
LONGEST = 400
"""Characters of a warning that are passed on."""


@contextmanager
def passed_on(say: Callable[[str], None] | None) -> Iterator[None]:
    """Pass what transformers warns of inside on to `say`, a line for each warning, whatever its verbosity is.

    Without `say` its log is left as it is.
    """
    if say is None:
        yield
        return
    log, handler = logging.getLogger("transformers"), _Lines(say)
    level, handlers, propagate = log.level, list(log.handlers), log.propagate
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)


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
