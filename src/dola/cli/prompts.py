"""Where prompts come from: the command line, a file, or standard input."""

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
    """The prompts that a command line means: one, unless they come from a file.

    Args:
        argument: What stands on the command line; - is standard input, and so is None.
        file: What `--file` names.
        field: What `--prompt-field` names: the field or column of the file that holds the prompts.
        verb: The verb of the command, for hints. Only `generate` has `--file`.

    Raises:
        UsageError: None or several sources, or a file that cannot be read.
    """
    if argument is not None and file is not None:
        raise UsageError("A prompt and --file were both given.", hint="give one of them")
    if field is not None and file is None:
        raise UsageError(
            "--prompt-field is for the entries of a file, and there is no --file.", hint="leave --prompt-field out"
        )
    if file == Path("-") and not file.exists():
        raise UsageError("--file '-' is not a file.", hint="--file /dev/stdin, or leave --file out for one prompt")
    if file is not None:
        return prompts_of(file, field)
    text = _from_stdin(argument, verb) if argument in (None, "-") else argument
    if not text.strip():
        raise UsageError("The prompt is empty.", hint='give one, for instance "The capital of France is"')
    if not is_text(text):
        raise UsageError("The prompt is not valid UTF-8.", hint="convert it, for instance with iconv -t utf-8")
    return [Prompt(text)]


def _from_stdin(argument: str | None, verb: str) -> str:
    if sys.stdin is None or (argument is None and sys.stdin.isatty()):  # it is None where it is closed
        file = ", or --file FILE" if verb == "generate" else ""
        raise UsageError(
            "There is no prompt.", hint=f'dola {verb} "The capital of France is"{file}, or pipe it into the command'
        )
    try:
        return with_plain_ends(_read(sys.stdin)).removesuffix("\n")  # which `echo` adds
    except UnicodeDecodeError:
        return "\udcff"


def _read(stream: Any) -> str:
    """All of a stream. UTF-8 is read as in a file: a mark at its beginning is left out, and bytes that are 0 are refused."""
    encoding = str(getattr(stream, "encoding", None)).lower().replace("-", "")
    content = stream.buffer.read() if encoding == "utf8" and hasattr(stream, "buffer") else stream.read()
    return decoded(content, None, name="The prompt", error=UsageError) if isinstance(content, bytes) else content
