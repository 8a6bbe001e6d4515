"""Text files that hold something on each line."""

from __future__ import annotations

from pathlib import Path

from dola.errors import DolaError


def written_lines(path: Path, *, name: str, error: type[DolaError], hint: str) -> list[tuple[int, str]]:
    """The lines of a UTF-8 file that are not blank, each behind its number, from 1.

    Args:
        path: The file.
        name: What messages call it.
        error: What is raised.
        hint: What to do about a file that is not UTF-8.

    Raises:
        error: The file cannot be read, or is not UTF-8.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError as problem:
        raise error(f"{name}: {problem.strerror}.", hint="check the path") from None
    except UnicodeDecodeError as problem:
        raise error(f"{name} is not valid UTF-8: {problem}.", hint=hint) from None
    return [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
