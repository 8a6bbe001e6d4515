"""Reads text files, and checks files before they are written."""

from __future__ import annotations

import errno
import os
import re
import shlex
from pathlib import Path

from dola.errors import DolaError

_BINARY = {
    b"\x1f\x8b": ("compressed with gzip", "gzip -dc {path} > {unpacked}"),
    b"BZh": ("compressed with bzip2", "bzip2 -dc {path} > {unpacked}"),
    b"\xfd7zXZ": ("compressed with xz", "xz -dc {path} > {unpacked}"),
    b"\x28\xb5\x2f\xfd": ("compressed with zstd", "zstd -dc {path} > {unpacked}"),
    b"PK\x03\x04": ("a zip archive or an Excel workbook", "unpack it, or save its sheet as CSV UTF-8"),
    b"\xd0\xcf\x11\xe0": ("an Excel workbook", "save its sheet as CSV UTF-8"),
    b"PAR1": ("a Parquet file", "pandas.read_parquet({name!r}).to_json({lines!r}, orient='records', lines=True)"),
    b"ARROW1": ("an Arrow file", "pandas.read_feather({name!r}).to_json({lines!r}, orient='records', lines=True)"),
    b"%PDF": ("a PDF file", "pdftotext {path}"),
}
"""First bytes of files that are not text: what they are, and how to convert them."""


def read_text(path: Path, *, name: str, error: type[DolaError]) -> str:
    """The text of a UTF-8 file, without a byte order mark and with its line ends unchanged.

    Args:
        path: The file.
        name: Its name in messages.
        error: The class of error to raise.

    Raises:
        error: The file cannot be read, is not UTF-8, or is not text.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise error(f"{name}: {problem.strerror}.", hint="check the path") from None
    return decoded(content, path, name=name, error=error)


def decoded(content: bytes, path: Path | None, *, name: str, error: type[DolaError]) -> str:
    """Decode a file's bytes, with the checks of `read_text`. Without a path, they do not come from a file."""
    for start, (what, hint) in _BINARY.items():
        if content.startswith(start) and not _is_text(content):
            raise error(f"{name} is {what}, not text.", hint=hint.format(**_names(path)) if path else "give its text")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise error(f"{name} is UTF-16, not UTF-8.", hint=_iconv(path, "utf-16"))
    if b"\0" in content:  # in UTF-16 without a byte order mark, every second byte of English is 0
        raise error(f"{name} contains zero bytes: it is UTF-16, or not text.", hint=_iconv(path, "utf-16"))
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as problem:
        line = 1 + content.count(b"\n", 0, problem.start)
        found = f"byte 0x{content[problem.start]:02x} in line {line}"
        raise error(f"{name} is not valid UTF-8: {found}.", hint=_iconv(path, "windows-1252")) from None


def _is_text(content: bytes) -> bool:
    """Whether bytes are text despite their beginning: a question about the gene PAR1 begins like a Parquet file."""
    try:
        return re.search(r"[\0-\x08]", content.decode("utf-8")) is None
    except UnicodeDecodeError:
        return False


def with_plain_ends(text: str) -> str:
    """Text with a line feed at the end of each line, whatever system wrote it."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def written_lines(text: str) -> list[tuple[int, str]]:
    """The lines of a text that are not blank, each with its number, counted from 1."""
    return [(number, line) for number, line in enumerate(with_plain_ends(text).split("\n"), 1) if line.strip()]


def check_writable(path: Path) -> None:
    """Check before hours of work that a file can be written. A file that does not exist is not created.

    Raises:
        OSError: The file cannot be written.
    """
    if path.exists():
        path.open("ab").close()
        return
    folder = path.resolve().parent
    os.stat(f"{folder}/.")  # fails unless it exists and is a folder
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _names(path: Path) -> dict[str, str]:
    """The names in hints of a file that is not text, and of the file to convert it to."""
    packed = path.suffix.lower() in (".gz", ".bz2", ".xz", ".zst")
    unpacked = path.with_suffix("") if packed else path.with_name(f"unpacked-{path.name}")
    return {
        "path": shlex.quote(str(path)),
        "unpacked": shlex.quote(str(unpacked)),
        "name": str(path),
        "lines": str(path.with_suffix(".jsonl")),
    }


def _iconv(path: Path | None, encoding: str) -> str:
    if path is None:
        return f"convert it, for instance with iconv -f {encoding} -t utf-8"
    target = path.with_name(f"{path.stem}-utf8{path.suffix}")
    return f"iconv -f {encoding} -t utf-8 {shlex.quote(str(path))} > {shlex.quote(str(target))}"
