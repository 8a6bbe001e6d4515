"""Reads prompts from the command line, a file, or standard input."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from dola.cli.prompt_files import Prompt, is_text, prompts_of
from dola.errors import UsageError
from dola.files.text_file import decoded, with_plain_ends

__all__ = ["Prompt", "read_prompts"]


def read_prompts(
    argument: str | None, file: Path | None = None, *, field: str | None = None, verb: str = "generate"
) -> list[Prompt]:
    """The prompts of a command line: one, unless they come from a file.

    Args:
        argument: The argument on the command line; both - and None mean standard input.
        file: The file of `--file`.
        field: The field or column of the file with the prompts, from `--prompt-field`.
        verb: The verb of the command, for hints. Only `generate` has `--file`.

    Raises:
        UsageError: Not exactly one source was given, or a file cannot be read.
    """
    if argument is not None and file is not None:
        raise UsageError("A prompt and --file exclude each other.", hint="give one of them")
    if field is not None and file is None:
        raise UsageError("--prompt-field needs --file: it names a field of the file's entries.", hint="omit --prompt-field")
    if file == Path("-") and not file.exists():
        raise UsageError("--file '-' is not a file.", hint="--file /dev/stdin, or omit --file for one prompt")
    if file is not None:
        return prompts_of(file, field)
    text = _from_stdin(argument, verb) if argument in (None, "-") else argument
    if not text.strip():
        raise UsageError("The prompt is empty.", hint='give one, for instance "The capital of France is"')
    if not is_text(text):
        raise UsageError("The prompt is not valid UTF-8.", hint="convert it, for instance with iconv -t utf-8")
    return [Prompt(text)]


def _from_stdin(argument: str | None, verb: str) -> str:
    if sys.stdin is None or (argument is None and sys.stdin.isatty()):  # None if it is closed
        file = ", or --file FILE" if verb == "generate" else ""
        raise UsageError(
            "No prompt was given.", hint=f'dola {verb} "The capital of France is"{file}, or pipe it into the command'
        )
    try:
        return with_plain_ends(_read(sys.stdin)).removesuffix("\n")  # which `echo` adds
    except UnicodeDecodeError:
        return "\udcff"


def _read(stream: Any) -> str:
    """The whole stream. UTF-8 is read as from a file: a byte order mark is removed, and zero bytes are refused."""
    encoding = str(getattr(stream, "encoding", None)).lower().replace("-", "")
    content = stream.buffer.read() if encoding == "utf8" and hasattr(stream, "buffer") else stream.read()
    return decoded(content, None, name="The prompt", error=UsageError) if isinstance(content, bytes) else content
