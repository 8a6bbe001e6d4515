"""Writes files as a whole or not at all: a reader finds the old content or the new one, whenever the writer is killed."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger("dola")

NOT_SYNCED = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)
"""Errors of things that cannot be synced, such as pipes and some network file systems. Others mean that data is lost."""


def write_whole(path: Path, text: str) -> None:
    """Write a text file in UTF-8 that then takes the place of an older one.

    Raises:
        OSError: The file cannot be written. An older one is unchanged.
    """
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new file to write inside, with the same suffix. It takes the name `path` after the block, and only then.

    Pipes and devices are written in place. So is a file that exists in a folder where no other can be made.

    Raises:
        OSError: The file cannot be written; the error names `path`. An older one is unchanged.
    """
    target = path.resolve()  # a link keeps pointing to the file
    if target.exists() and not target.is_file():
        yield path
        return
    if target.exists():
        target.open("ab").close()  # a read-only file stays: renaming would replace it
        if not os.access(target.parent, os.W_OK | os.X_OK):
            logger.warning("%s is written in place, because no other file can be made in its folder.", path)
            yield path
            return
    partial = target.with_name(f".dola-{os.getpid()}-{threading.get_ident()}{target.suffix}")
    try:
        partial.touch()
        yield partial
        if target.exists():
            partial.chmod(target.stat().st_mode & 0o7777)
        sync_file(partial)
        partial.replace(target)
    except OSError as error:
        if error.filename in (None, str(partial), os.fspath(target)):
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)
    _sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Store a file's content on the disk, so that a loss of power does not leave its name with other content."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync(descriptor: int) -> None:
    """Store on the disk what was written, where the system can.

    Raises:
        OSError: It could not store it, for instance because the disk is full.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_SYNCED:
            raise


def _sync_folder(folder: Path) -> None:
    """Store the new name. The content is stored already, so a failure leaves the old file or the new one."""
    with suppress(OSError):  # Windows cannot open folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
