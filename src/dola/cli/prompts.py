"""Where prompts come from: the command line, a file, or standard input."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dola.errors import UsageError
from dola.text_file import written_lines


@dataclass(frozen=True)
class Prompt:
    """A prompt, and the other fields of the JSON line that it came in."""

    text: str
    fields: dict[str, Any] = field(default_factory=dict)


def read_prompts(argument: str | None, file: Path | None = None, *, verb: str = "generate") -> list[Prompt]:
    """The prompts that a command line means: one, unless they come from a file.

    Args:
        argument: What stands on the command line; - is standard input, and so is None.
        file: What `--file` names.
        verb: The verb of the command, for hints. Only `generate` has `--file`.

    Raises:
        UsageError: None or several sources, or a file that cannot be read.
    """
    if argument is not None and file is not None:
        raise UsageError("A prompt and --file were both given.", hint="give one of them")
    if file is not None:
        return _from_file(file)
    text = _from_stdin(argument, verb) if argument in (None, "-") else argument
    if not text.strip():
        raise UsageError("The prompt is empty.", hint='give one, for instance "The capital of France is"')
    if not _is_text(text):
        raise UsageError("The prompt is not valid UTF-8.", hint="convert it, for instance with iconv -t utf-8")
    return [Prompt(text)]


def _from_stdin(argument: str | None, verb: str) -> str:
    if argument is None and sys.stdin.isatty():
        file = ", or --file FILE" if verb == "generate" else ""
        raise UsageError(
            "There is no prompt.", hint=f'dola {verb} "The capital of France is"{file}, or pipe it into the command'
        )
    try:
        return sys.stdin.read().removesuffix("\n")  # which `echo` adds
    except UnicodeDecodeError:
        return "\udcff"


def _is_text(text: str) -> bool:
    """Whether a string can be encoded: bytes that are not UTF-8 reach Python as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _from_file(path: Path) -> list[Prompt]:
    """Prompts of a file: .jsonl or .ndjson has an object with "prompt" on each line, any other name a prompt on each line.

    Blank lines are passed over.
    """
    name = f"--file {str(path)!r}"
    lines = written_lines(path, name=name, error=UsageError, hint="convert it with iconv -t utf-8")
    parse = _from_json if path.suffix.lower() in (".jsonl", ".ndjson") else lambda where, line: Prompt(line)
    prompts = [parse(f"{name}, line {number}", line.removesuffix("\r")) for number, line in lines]
    if not prompts:
        raise UsageError(f"{name} holds no prompt.", hint="write one prompt on each line")
    return prompts


def _from_json(where: str, line: str) -> Prompt:
    hint = 'each line of a .jsonl file looks like {"prompt": "The capital of France is"}'
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise UsageError(f"{where} is not JSON: {error}.", hint=hint) from None
    if not isinstance(fields, dict) or not isinstance(fields.get("prompt"), str):
        raise UsageError(f'{where} has no "prompt" that is a string: {line[:60]}', hint=hint)
    if not fields["prompt"].strip() or not _is_text(fields["prompt"]):
        raise UsageError(f"{where} has a prompt that is empty or cannot be encoded: {line[:60]}", hint=hint)
    if not _is_text(json.dumps(fields, ensure_ascii=False)):  # they go into the output: found out now, not after decoding
        raise UsageError(f"{where} has a field that cannot be encoded: {line[:60]}", hint=hint)
    return Prompt(fields.pop("prompt"), fields)
