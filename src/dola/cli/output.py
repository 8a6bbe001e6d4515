"""What every verb prints with: results on stdout, everything else on stderr, and JSON of a stated schema.

Nothing but the result goes to stdout, so that it can be piped. Colour is rich's affair: it is on only for terminals, and off
where NO_COLOR is set.
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
        """Leave a closed pipe to `endings`, like any other: rich would exit with 1."""
        raise BrokenPipeError


def stdout() -> Console:
    """The console for results."""
    return _Console(highlight=False, soft_wrap=False)


def stderr() -> Console:
    """The console for progress and notes."""
    return _Console(stderr=True, highlight=False)


def note(line: str) -> None:
    """A line for whoever watches: on stderr, and only where that is a terminal."""
    console = stderr()
    if console.is_terminal:
        console.print(line, style="dim", markup=False)


def say(line: str) -> None:
    """A line that must not be missed, on stderr, whoever watches: what was chosen or changed without being asked for."""
    print(f"dola: {printable(line)}", file=sys.stderr, flush=True)


class _Said(logging.Handler):
    """Prints log lines as `say` does, with tracebacks where there are some."""

    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextmanager
def log_as_said() -> Iterator[None]:
    """What the library warns of inside is said as the command says it, once, whatever other libraries set up."""
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
    """Say what is being loaded while it is, where somebody watches. Yields what prints a line of progress in the meantime."""
    watched = sys.stderr.isatty()
    wipe = "\r\x1b[K" if watched else ""  # no spinner: downloads have bars of their own

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
    """A spinner on stderr while something takes time, where that is a terminal."""
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
    """Print one such line to stdout; escaped where stdout cannot hold every character."""
    unicode = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")
    sys.stdout.write(json_line(schema, result, ascii_only=not unicode))
    sys.stdout.flush()


def printable(text: str) -> str:
    """Text that a model made, without what would command the terminal: control characters other than newline and tab."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)


def quiet_bars() -> None:
    """Have no progress bars where nobody watches, and elsewhere none that stay. To be called before tqdm is imported."""
    os.environ.setdefault("TQDM_LEAVE", "")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")


def quiet_libraries() -> None:
    """Silence what the libraries say of themselves; where somebody watches, all but downloads."""
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if not sys.stderr.isatty():
        from huggingface_hub.utils import logging as hub_logging  # which sets its level when it is imported: not before

        hub_logging.set_verbosity(logging.ERROR)
