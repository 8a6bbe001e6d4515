"""Files of JSON lines that can be resumed after an interruption.

A line that was half written when the run was killed is dropped. The file changes only when the caller asks for it, so a file
that belongs to a different run can be refused unchanged.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, TextIO

from dola.files.whole_file import sync

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("dola")


class JsonLines:
    """The content of a file of JSON lines.

    Attributes:
        path: The file.
        schema: Name and version of its format, such as "dola.results/1".
        lines: Its complete lines, without line ends.
    """

    def __init__(self, path: Path, schema: str) -> None:
        """Read the file; one that does not exist is empty.

        Raises:
            OSError: The file cannot be read.
        """
        self.path, self.schema = path, schema
        content = path.read_bytes() if path.exists() else b""
        *self.lines, self._cut = content.split(b"\n")
        self._length = len(content) - len(self._cut)

    def cut_line_begins(self, start: bytes) -> bool:
        """Whether the incomplete last line, if there is one, could be part of a line that starts like this."""
        return self._cut.startswith(start) or start.startswith(self._cut)

    def is_other_version(self, schema: object) -> bool:
        """Whether a line's schema is another version of this file's schema."""
        name = self.schema.partition("/")[0]
        return isinstance(schema, str) and schema != self.schema and schema.startswith(f"{name}/")

    def has_changed(self, file: TextIO) -> bool:
        """Whether the file, which is open for appending, has another length than when it was read."""
        return os.fstat(file.fileno()).st_size != self._length + len(self._cut)

    def drop_cut_line(self, file: TextIO) -> None:
        """Truncate the file, which is open for appending, to its complete lines."""
        if file.seek(0, os.SEEK_END) > self._length:  # /dev/null cannot be truncated, and need not be
            file.truncate(self._length)


def open_to_append(path: Path) -> TextIO:
    """Open the file for appending, or create it. The caller closes it.

    Raises:
        OSError: The file cannot be written.
    """
    return path.open("a", encoding="utf-8", newline="\n")


def append(file: TextIO, lines: Iterable[str]) -> None:
    """Write lines that end in a line feed. When this returns, other processes can read them, and the disk has them.

    Raises:
        OSError: They cannot be written. The file may then end in a part of a line, which `JsonLines` drops.
    """
    file.write("".join(lines))
    file.flush()
    sync(file.fileno())


def lock(file: IO[Any]) -> bool:
    """Lock a file until it is closed. Returns False if another process holds it, and True if the file system has no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # some network file systems
        logger.info("%s cannot be locked: %s", file.name, error)
    return True
