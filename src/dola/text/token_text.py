"""The texts of single tokens, and a safe display of any text, in which nothing is invisible or takes effect.

A token need not be readable text: byte-level tokens hold parts of characters, and a model may emit control characters,
characters that change the direction of writing, or markup.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

UNFINISHED = "[...]"
"""Marks the end of a text that the length limit cut."""

_SHOWN = {"\n": r"\n", "\t": r"\t", "\r": r"\r", " ": " "}
_HIDDEN = ("C", "Z")
"""First letters of the Unicode categories that are invisible: control, format (bidi), unassigned, separators."""


def token_texts(tokenizer: Any, ids: Iterable[int]) -> dict[int, str]:
    """The text of each single token, including its leading space.

    A part of a character is shown as its bytes, `\\xe6\\x97`; a token without a text by its name.
    """
    return {token: _text(tokenizer, token) for token in sorted(set(ids))}


def visible(text: str) -> str:
    """`text` with newlines, control and bidi characters and unusual spaces as escapes."""
    shown = "".join(_SHOWN.get(character) or _visible(character) for character in text)
    return f"\u25cc{shown}" if text and unicodedata.category(text[0]).startswith("M") else shown  # an accent needs a base


def quoted(text: str) -> str:
    """`visible(text)` in quotation marks, which show the spaces around it."""
    return f'"{visible(text)}"'


def percent(share: float) -> str:
    """A probability in percent, with one decimal place."""
    return f"{share:.1%}" if share >= 0.001 else "under 0.1%"


def _visible(character: str) -> str:
    if unicodedata.category(character)[0] not in _HIDDEN:
        return character
    return character.encode("unicode_escape").decode()


def _text(tokenizer: Any, token: int) -> str:
    text: str = tokenizer.decode([token])
    name = tokenizer.convert_ids_to_tokens(token)
    if not isinstance(name, str):
        return text or f"<token {token}>"  # the head may have more rows than the tokenizer has tokens
    if "\ufffd" in text:
        return _bytes_in_words(name) or text
    if name.startswith("\u2581") and not text.startswith(" "):  # SentencePiece drops the space of a first word
        return f" {text}"
    return text or name


def _bytes_in_words(name: str) -> str | None:
    """A byte-level token's text, with bytes of incomplete characters as `\\xe6`; None for another kind of token."""
    values = [_BYTES.get(character) for character in name]
    if None in values:
        return None
    return bytes(value for value in values if value is not None).decode(errors="backslashreplace")


def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: the character that stands for each byte in the names of byte-level tokens."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_level()
