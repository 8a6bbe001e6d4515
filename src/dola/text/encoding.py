"""Turns text into token ids, and is the one place where a tokenizer's output is checked before a model reads it.

    text -> tokenizer -> without what the tokenizer appends -> ids that the model has embeddings for -> padded, with a mask

Any tokenizer with Hugging Face's interface works: it is called with one text at a time, and only `input_ids` are read.
"""

from __future__ import annotations

import functools
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeGuard

from dola.errors import InputError
from dola.model.generation_fields import end_tokens
from dola.text.chat import NO_CHAT, chat_ids, short

OTHER_TOKENIZER = "use the tokenizer that the model was trained with"
"""The hint of errors about a tokenizer that does not fit the model."""

_PROBES = ("a", "0", "the", "1 2")
"""Texts to find out which tokens a tokenizer adds around any text."""


@dataclass(frozen=True)
class Encoder:
    """Makes the token ids that a model reads.

    Attributes:
        tokenizer: The model's tokenizer. None if all texts are given as tokens.
        rows: Number of tokens that the model has embeddings for; None if unknown.
        ends: Tokens that end the model's texts.
    """

    tokenizer: Any
    rows: int | None = None
    ends: frozenset[int] = frozenset()

    @classmethod
    def of(cls, model: Any, tokenizer: Any) -> Encoder:
        """The encoder for a model and its tokenizer."""
        return cls(tokenizer, embedding_rows(model), _ends(model))

    def text(self, text: str) -> list[int]:
        """The tokens of a text to continue, without those that the tokenizer appends, such as an end token.

        Raises:
            InputError: The tokenizer fails, or the model has no embedding for one of the tokens.
        """
        return self.checked(self.without_appended(text, self._ids(text)))

    def bare(self, text: str) -> list[int]:
        """The tokens of a text inside another one: nothing is added at either end.

        Raises:
            InputError: See `text`.
        """
        return self.checked(self._ids(text, add_special_tokens=False))

    def chat(self, message: str, *, hint: str = NO_CHAT) -> list[int]:
        """The tokens of a user's message to answer, with all tokens that the chat template adds.

        Raises:
            InputError: The chat template fails, or loses words of the message; the model has no embedding for a token.
        """
        return self.checked(chat_ids(self.tokenizer, message, hint=hint), hint=f"{OTHER_TOKENIZER}, or {hint}")

    def prompt(self, text: str, *, chat: bool, hint: str = NO_CHAT) -> list[int]:
        """The tokens of a prompt: a user's message if `chat` is set, otherwise a text to continue.

        Raises:
            InputError: See `chat` and `text`; or the prompt has no tokens.
        """
        found = self.chat(text, hint=hint) if chat else self.text(text)
        if not found:
            raise no_tokens(f": {short(text)}")
        return found

    def checked(self, ids: Sequence[Any], *, hint: str = OTHER_TOKENIZER) -> list[int]:
        """The same tokens, checked: the model has an embedding for each.

        Raises:
            InputError: The model has no embedding for one of them, or one is not a number.
        """
        try:
            if isinstance(ids, (bytes, bytearray, Mapping)):
                raise InputError(f"Tokens were given as {type(ids).__name__}, not a list.", hint="give a text, or its tokens")
            found: list[int] = list(map(operator.index, ids))
        except TypeError:
            if not isinstance(ids, Iterable):
                message = f"{ids!r} is neither a text nor a list of tokens."
                raise InputError(message, hint="give a text, or its tokens") from None
            wrong = next(token for token in ids if not hasattr(token, "__index__"))
            what = "The tokenizer does not know a part of the text and has no token for unknown text"
            raise InputError(f"{what if wrong is None else f'A token is {wrong!r}, not a whole number'}.", hint=hint) from None
        if found and not (self.has_row(min(found)) and self.has_row(max(found))):
            token = next(token for token in found if not self.has_row(token))
            rows = "" if self.rows is None else f"; the model has embeddings for {self.rows} tokens"
            raise InputError(f"The text has the token {self.named(token)}, which the model does not know{rows}.", hint=hint)
        return found

    def has_row(self, token: Any) -> TypeGuard[int]:
        """Whether the model has an embedding for a token."""
        return isinstance(token, int) and 0 <= token < (sys.maxsize if self.rows is None else self.rows)

    def named(self, token: int) -> str:
        """A token's number, and its text if the tokenizer knows it."""
        try:
            name = self.tokenizer.convert_ids_to_tokens(token)
        except Exception:  # without a tokenizer, or a tokenizer that does not have this number
            name = None
        return f"{token} ({name!r})" if isinstance(name, str) else str(token)

    def without_appended(self, text: str, ids: Sequence[int]) -> list[int]:
        """The tokens of a text without those that the tokenizer appended. The same tokens inside the text itself stay."""
        if self._appends_nothing:
            return list(ids)
        full, bare = list(ids), self._ids(text, add_special_tokens=False)
        return full[: len(full) - _appended(full, bare, self.around)]

    @functools.cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The tokens that the tokenizer adds before and after every text; none if the probes disagree."""
        for text in _PROBES:
            full, bare = self._ids(text), self._ids(text, add_special_tokens=False)
            if bare and len(places := list(_places(full, bare))) == 1:
                return full[: places[0]], full[places[0] + len(bare) :]
        return [], []

    @functools.cached_property
    def pad_token_id(self) -> int:
        """A token for rows that have ended: the tokenizer's padding token, or another one if the model cannot read that."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        end = getattr(self.tokenizer, "eos_token_id", None)
        return pad if self.has_row(pad) else end if self.has_row(end) else 0

    def padded(self, rows: Sequence[Sequence[int]], *, device: Any = None, side: str = "left") -> dict[str, Any]:
        """Rows of tokens as torch's `input_ids` and `attention_mask` [B, T], by default padded on the left.

        The mask is made from lengths, because a text may contain the padding token itself. If the tokenizer's padding token
        ends a text, or the model cannot read it, a row is padded with its own first token, which it contains anyway.

        Raises:
            InputError: A row has no tokens.
        """
        import torch

        if not all(rows):
            raise no_tokens()
        longest = max(map(len, rows))
        ids, masks = [], []
        for row in rows:
            filler = [self._filler(row)] * (longest - len(row))
            off, on = [0] * len(filler), [1] * len(row)
            ids.append([*filler, *row] if side == "left" else [*row, *filler])
            masks.append([*off, *on] if side == "left" else [*on, *off])
        return {"input_ids": torch.tensor(ids, device=device), "attention_mask": torch.tensor(masks, device=device)}

    def _filler(self, row: Sequence[int]) -> int:
        """The token that pads a row. An end token would not do: early releases of transformers 5 penalize it as repeated."""
        pad = getattr(self.tokenizer, "pad_token_id", None)
        ends = {*self.ends, getattr(self.tokenizer, "eos_token_id", None)}
        return pad if self.has_row(pad) and pad not in ends else row[0]

    @functools.cached_property
    def _appends_nothing(self) -> bool:
        """Whether the tokenizer certainly appends nothing; then a text is tokenized once instead of twice."""
        before, after = self.around
        return not after and bool(before or self._ids(_PROBES[0]) == self._ids(_PROBES[0], add_special_tokens=False))

    def _ids(self, text: str, **settings: Any) -> list[Any]:
        if self.tokenizer is None:
            raise InputError(f"{short(text)} is a text, but no tokenizer was given.", hint="give its tokens, or a tokenizer")
        try:
            return list(self.tokenizer(text, **settings)["input_ids"])
        except MemoryError:
            raise
        except Exception as problem:  # a tokenizer may be anybody's code, and the package tokenizers raises bare Exceptions
            raise InputError(
                f"The tokenizer fails on {short(text)}: {type(problem).__name__}: {problem}", hint=OTHER_TOKENIZER
            ) from problem


def no_tokens(what: str = "") -> InputError:
    """The error for a prompt of zero tokens; `what` completes the sentence, for instance with the text."""
    return InputError(
        f"The prompt has no tokens{what}; at least one is needed.",
        hint="give a prompt, or the tokenizer's beginning-of-sequence token",
    )


def embedding_rows(model: Any) -> int | None:
    """The number of tokens that a model has input embeddings for; None if unknown."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    rows = getattr(table, "num_embeddings", None)  # before the weight: a quantized one is packed, a sharded one is a part
    shape: tuple[int, ...] = getattr(getattr(table, "weight", None), "shape", ())
    return rows if isinstance(rows, int) else int(shape[0]) if len(shape) == 2 else None


def _ends(model: Any) -> frozenset[int]:
    found: set[int] = set()
    for config in (getattr(model, "generation_config", None), getattr(model, "config", None)):
        with suppress(TypeError):  # not token ids: decoding reports it
            found |= end_tokens(config)
    return frozenset(found)


def _appended(full: Sequence[Any], bare: Sequence[Any], around: tuple[Sequence[Any], Sequence[Any]]) -> int:
    """How many tokens at the end of `full` do not belong to the text, whose tokens are `bare`."""
    places = list(_places(full, bare))
    before, after = around
    if not places:  # the text was truncated, or is split differently
        return len(after) if after and list(full[-len(after) :]) == list(after) else 0
    usual = len(before) in places and len(before) + len(bare) + len(after) == len(full)
    return len(full) - (len(before) if usual else places[-1]) - len(bare)


def _places(full: Sequence[Any], bare: Sequence[Any]) -> Iterator[int]:
    """The positions at which `bare` occurs in `full`."""
    return (i for i in range(len(full) - len(bare) + 1) if list(full[i : i + len(bare)]) == list(bare))
