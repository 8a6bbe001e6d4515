"""Strict JSON, written and read. Imports nothing heavy.

Python's json writes NaN and Infinity as they are. They are not JSON: jq and browsers refuse the whole line. So everything that
dola writes goes through `dumps`, which writes null instead. When reading, a field that is listed twice is an error.
"""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

_SPACE = re.compile(r"[ \t\r\n]*")
_WORDS = ("true", "false", "null", "NaN", "Infinity", "-Infinity")


class BrokenJSONError(ValueError):
    """Text that is not JSON.

    Attributes:
        reason: Why not, in the words of Python's json.
        line: The line where the value begins, counted from 1.
        cut_off: Whether the text ends before the value does.
    """

    def __init__(self, reason: str, *, line: int, cut_off: bool) -> None:
        super().__init__(reason)
        self.reason, self.line, self.cut_off = reason, line, cut_off


def dumps(value: Any, *, ensure_ascii: bool = True, tell: Callable[[str], None] | None = None) -> str:
    """Strict JSON on one line: null for NaN and infinity.

    Args:
        value: Any value that json.dumps accepts.
        ensure_ascii: Whether to escape characters outside of ASCII.
        tell: Called with one sentence if a number became null. By default a warning is issued.
    """
    try:
        return json.dumps(value, ensure_ascii=ensure_ascii, allow_nan=False)
    except ValueError:
        clean, lost = finite(value)
        if not lost:  # another reason
            raise
        (tell or _warn)(null_for(lost))
        return json.dumps(clean, ensure_ascii=ensure_ascii, allow_nan=False)


def finite(value: Any) -> tuple[Any, list[str]]:
    """`value` with None for each NaN and infinity, and their paths, such as "score" or "tokens[3].contrast"."""
    lost: list[str] = []

    def clean(part: Any, path: str) -> Any:
        if isinstance(part, float) and not math.isfinite(part):
            lost.append(path.lstrip(".") or "the value")
            return None
        if isinstance(part, dict):
            return {key: clean(each, f"{path}.{key}") for key, each in part.items()}
        if isinstance(part, (list, tuple)):
            return [clean(each, f"{path}[{index}]") for index, each in enumerate(part)]
        return part

    return clean(value, ""), lost


def null_for(lost: list[str]) -> str:
    """A sentence about the numbers that became null."""
    more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    return f"{lost[0]}{more}: NaN and infinity are not JSON; written as null"


def loads(text: str | bytes) -> Any:
    """Parse the JSON value of a text, or of its bytes in UTF-8.

    Raises:
        ValueError: The text is not one JSON value, lists a field twice, or is nested too deeply to be read.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")  # json itself would guess the encoding, and accept UTF-16 as well
    try:
        return json.loads(text, object_pairs_hook=_each_once)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def values(text: str) -> Iterator[tuple[int, Any]]:
    """The consecutive JSON values of a text, as in JSON lines, each with the number of the line where it begins.

    A value may take several lines, as jq prints it.

    Raises:
        BrokenJSONError: The rest of the text is not JSON.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_each_once)
    position, line, counted = _skip(text, 0), 1, 0
    while position < len(text):
        line += text.count("\n", counted, position)
        counted = position
        try:
            value, end = decoder.raw_decode(text, position)
        except json.JSONDecodeError as error:
            raise BrokenJSONError(str(error), line=line, cut_off=_ends_at(text, error)) from None
        except RecursionError:
            raise BrokenJSONError("it is nested too deeply", line=line, cut_off=False) from None
        except ValueError as error:  # a field that is listed twice, or a number of thousands of digits
            raise BrokenJSONError(str(error), line=line, cut_off=False) from None
        yield line, value
        position = _skip(text, end)


def _skip(text: str, position: int) -> int:
    found = _SPACE.match(text, position)
    return position if found is None else found.end()


def _ends_at(text: str, error: json.JSONDecodeError) -> bool:
    """Whether JSON failed because the text ended."""
    rest = text[error.pos :].strip()
    return not rest or error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in _WORDS)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {twice!r} is listed twice")
    return found


def _warn(sentence: str) -> None:
    warnings.warn(sentence, stacklevel=3)
