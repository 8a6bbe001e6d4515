"""Files of JSON lines that an interrupted run continues.

A line that was half written when the run was killed is dropped. Nothing is changed before the caller asks for it, and a file
of another run can be refused as it is.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("dola")


class JsonLines:
    """What a file of JSON lines holds.

    Attributes:
        path: The file.
        schema: Name and version of what it holds, such as "dola.results/1".
        lines: Its whole lines, without their ends.
    """

    def __init__(self, path: Path, schema: str) -> None:
        """Read the file; one that does not exist is empty.

        Raises:
            OSError: It cannot be read.
        """
        self.path, self.schema = path, schema
        content = path.read_bytes() if path.exists() else b""
        *self.lines, self._cut = content.split(b"\n")
        self._length = len(content) - len(self._cut)

    def cut_line_begins(self, start: bytes) -> bool:
        """Whether the last line, if its end is missing, may be the beginning of one that starts like this."""
        return self._cut.startswith(start) or start.startswith(self._cut)

    def is_other_version(self, schema: object) -> bool:
        """Whether a line's schema is another version of this file's."""
        name = self.schema.partition("/")[0]
        return isinstance(schema, str) and schema != self.schema and schema.startswith(f"{name}/")

    def drop_cut_line(self, file: TextIO) -> None:
        """Shorten the file, which is open to append, to its whole lines."""
        if file.seek(0, os.SEEK_END) > self._length:  # /dev/null cannot be truncated, and need not be
            file.truncate(self._length)


def open_to_append(path: Path) -> TextIO:
    """The file, to be closed by the caller; it is made where it does not exist.

    Raises:
        OSError: It cannot be written.
    """
    return path.open("a", encoding="utf-8", newline="\n")


def append(file: TextIO, lines: Iterable[str]) -> None:
    """Write lines that end in a line feed. When this returns, other processes can read them."""
    file.write("".join(lines))
    file.flush()


def lock(file: TextIO) -> bool:
    """Hold a file until it is closed. False where another process holds it; True where the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems
        logger.info("%s cannot be locked: %s", file.name, error)
    return True
