"""Output of all verbs: results on stdout, everything else on stderr, and JSON with a named schema.

Only the result goes to stdout, so that it can be piped. rich decides on color: it is on only for terminals, and off if
NO_COLOR is set.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from dola._version import __version__
from dola.files.json_text import dumps


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Leave a closed pipe to `endings`: rich would exit with 1."""
        raise BrokenPipeError


def stdout() -> Console:
    """The console for results."""
    return _Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """The console for progress and notes."""
    return _Console(stderr=True, highlight=False)


def note(line: str) -> None:
    """Print a line for a watching user: on stderr, and only if that is a terminal."""
    console = stderr()
    if console.is_terminal:
        console.print(line, style="dim", markup=False)


def say(line: str) -> None:
    """Print a line on stderr that must not be missed, terminal or not: a choice or change that the user did not request."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):  # not on the line of a progress bar
        print(f"dola: {printable(line)}", file=sys.stderr, flush=True)


class _Said(logging.Handler):
    """Prints log lines as `say` does, with their tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextmanager
def log_as_said() -> Iterator[None]:
    """Print the library's warnings inside in the command's form, once, however other libraries configure logging."""
    logger, handler = logging.getLogger("dola"), _Said(logging.WARNING)
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


@contextmanager
def loading(name: str) -> Iterator[Callable[[str], None]]:
    """Show on a terminal that a model is being loaded. Yields a function that prints a line of progress meanwhile."""
    watched = sys.stderr.isatty()
    wipe = "\r\x1b[K" if watched else ""  # not a spinner: downloads have their own bars

    def progress(line: str) -> None:
        print(f"{wipe}{line}", file=sys.stderr, flush=True)

    if watched:
        print(f"Loading {printable(name)} ...", end="", file=sys.stderr, flush=True)
    try:
        yield progress
    finally:
        print(wipe, end="", file=sys.stderr, flush=True)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner on stderr while something takes time, if that is a terminal."""
    console = stderr()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def json_line(schema: str, result: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """One strict JSON object on one line: `schema` is its name and version, as docs/cli.md documents it."""
    return dumps({"schema": schema, "dola": __version__, **result}, ensure_ascii=ascii_only, tell=say) + "\n"


def print_json(schema: str, result: Mapping[str, Any]) -> None:
    """Print one such line to stdout; escaped if stdout cannot encode every character."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")
    sys.stdout.write(json_line(schema, result, ascii_only=not unicode))
    sys.stdout.flush()


def printable(text: str) -> str:
    """A model's text without characters that could control the terminal: control characters except newline and tab."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def quiet_bars() -> None:
    """Turn progress bars off without a terminal, and erase finished ones on a terminal. Call it before tqdm is imported."""
    os.environ.setdefault("TQDM_LEAVE", "")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def quiet_libraries() -> None:
    """Silence the libraries' own messages; on a terminal, all except downloads."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        from huggingface_hub.utils import logging as hub_logging  # sets its level when it is imported

        hub_logging.set_verbosity(logging.ERROR)
