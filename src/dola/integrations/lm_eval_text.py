"""Texts and chats of lm-evaluation-harness's model types, by the rules of `dola.text.encoding` and `dola.text.chat`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from dola.model.hidden import cut_left
from dola.text.chat import Message, faithful
from dola.text.encoding import Encoder

logger = logging.getLogger("dola")


class CheckedText:
    """A mixin that changes how the harness's classes treat texts; it goes before them.

    Tokens that a tokenizer appends to a text are removed. Tokens without an embedding are refused, and so are chat templates
    that lose words of the user or of the system. The harness itself drops a system text that a template refuses.
    """

    tokenizer: Any

    @functools.cached_property
    def _encoder(self) -> Encoder:
        return Encoder.of(getattr(self, "model", None), self.tokenizer)

    def tok_encode(self, string: str | list[str], *args: Any, left_truncate_len: int | None = None, **kwargs: Any) -> Any:
        """Override the harness's: the tokens of a text, or of several, without those that the tokenizer appends."""
        found = super().tok_encode(string, *args, **kwargs)  # type: ignore[misc]
        if not isinstance(string, str):
            return [self._encoder.without_appended(each, ids) for each, ids in zip(string, found, strict=True)]
        ids = self._encoder.without_appended(string, found)
        return ids[-left_truncate_len:] if left_truncate_len else ids

    def apply_chat_template(self, chat_history: Sequence[Message], *args: Any, **kwargs: Any) -> str:
        """Override the harness's: the prompt of a chat.

        Raises:
            InputError: The chat template fails, or loses words.
        """
        render = functools.partial(_applied, super().apply_chat_template, args, kwargs)  # type: ignore[misc]
        return faithful(render, chat_history, hint="omit --apply_chat_template or --system_instruction")[1]


class CheckedBatches(CheckedText):
    """`CheckedText` for model types of `HFLM`, which pads its batches."""

    def tok_batch_encode(
        self, strings: Sequence[str], padding_side: str = "left", left_truncate_len: int | None = None, truncation: bool = False
    ) -> tuple[Any, Any]:
        """Override the harness's: ids and mask [B, T] of texts, with the mask made from lengths.

        Raises:
            InputError: A text has no tokens, or a token that the model has no embedding for.
        """
        rows = [self._encoder.checked(self.tok_encode(string)) for string in strings]
        if truncation:
            rows = [self._cut(row) for row in rows]
        if left_truncate_len and (longest := max(map(len, rows))) > left_truncate_len:
            logger.warning("Contexts are cut on the left: the longest has %d tokens, of %d.", longest, left_truncate_len)
            rows = [row[-left_truncate_len:] for row in rows]
        inputs = self._encoder.padded(rows, side=padding_side)
        return inputs["input_ids"], inputs["attention_mask"]

    def _cut(self, row: list[int]) -> list[int]:
        """A text cut to the tokenizer's own maximum length, on the side where the tokenizer cuts."""
        longest = self.tokenizer.model_max_length
        if len(row) <= longest:
            return row
        return (
            row[:longest] if self.tokenizer.truncation_side == "right" else cut_left(row, longest, self.tokenizer.bos_token_id)
        )


def _applied(render: Any, args: tuple[Any, ...], kwargs: dict[str, Any], history: Any) -> Any:
    return render(history, *args, **kwargs)
