"""Reads lists of texts from one cell of a table, in the notation of Python, numpy or JSON."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from dola.files.json_text import loads
from dola.files.records import described

_OPENED = re.compile(r"""\s*(?:array\()?\[\s*(?=['"\]\d-]|(?:None|nan|null|NaN|True|False|true|false)\b)""")
_ITEM = re.compile(r"""\s*(,?)\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^\s,\[\]'"]+)""", re.DOTALL)
_PLAIN = re.compile(r"-?\d[\d.e+-]*|None|nan|null|NaN|True|False|true|false|\.\.\.")
_CLOSED = re.compile(r"\s*,?\s*\](?:\s*,\s*dtype=[^)]*)?\s*\)?\s*")


def exported_list(cell: str) -> list[str] | None:
    """The texts of a list that was written into a cell, or None if the cell is not such a list.

    Python's `['a', 'b']`; numpy's `['a' 'b']`, which Python itself would read as one text; JSON's `["a", "b"]`.

    Raises:
        ValueError: The cell begins like such a list but does not end like one, or an item is not text.
    """
    opened = _OPENED.match(cell)
    if opened is None:
        return None
    try:
        found = loads(cell)
    except ValueError:
        return _items(cell, opened.end())
    return all_texts(found) if isinstance(found, list) else None


def all_texts(items: list[Any]) -> list[str]:
    """The items of a list, checked to be texts.

    Raises:
        ValueError: An item is not a text.
    """
    for number, item in enumerate(items, 1):
        if not isinstance(item, str):
            raise ValueError(f"item {number} is {described(item)}, not text")
    return items


def _items(cell: str, position: int) -> list[str] | None:
    words: list[str] = []
    commas: set[str] = set()
    while (item := _ITEM.match(cell, position)) is not None:
        commas |= {item[1]} if words else set()
        words.append(item[2])
        position = item.end()
    odd = [word for word in words if word[0] not in "'\"" and not _PLAIN.fullmatch(word)]
    if _CLOSED.fullmatch(cell, position) is None or len(commas) > 1 or odd:
        if not words or words[0][0] not in "'\"":  # "[1] says otherwise" is a text
            return None
        raise ValueError("it begins like a list of texts and does not continue like one")
    for number, word in enumerate(words, 1):
        if word[0] not in "'\"":
            raise ValueError(f"item {number} is {word}, not text")
    return [_unquoted(word) for word in words]


def _unquoted(word: str) -> str:
    """The text of a Python literal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # "\d" is two characters, as in older Pythons
            return str(ast.literal_eval(word))
    except SyntaxError as error:
        raise ValueError(f"{word[:40]} is not a text: {error.msg}") from None
