"""Text to fit a lens on, as windows of tokens: texts that are given, or what the model itself writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

import torch
from tqdm.auto import tqdm

from dola.errors import InputError
from dola.lens.partial import Partial
from dola.model.anatomy import Anatomy
from dola.text.encoding import Encoder

LENGTH = 512
"""Most tokens of a window. Longer texts are cut into windows."""
HELD_OUT = 8
"""Every so many windows, one is held out to judge the lens."""
JUDGED = 2048
"""Held-out positions, about: reading them twice through the head at each layer takes longer than the fit."""
LEAST = 2
"""Fewest windows: one to fit on, one to judge."""

SAMPLE = 256
"""Tokens of a sample."""
BATCH = 16
"""Samples that are written at a time."""
SEED = 0
"""The seed of the first batch; each further batch has the next one."""


class Parts(NamedTuple):
    """The windows to fit on, and those that are held out."""

    fitted: list[Sequence[int]]
    held: list[Sequence[int]]

    @property
    def digest(self) -> str:
        """SHA-256 of all tokens."""
        return hashlib.sha256(repr([[list(row) for row in part] for part in self]).encode()).hexdigest()


def windows(encoder: Encoder, texts: Iterable[str], longest: int | None) -> Iterator[list[int]]:
    """The tokens of texts, cut into windows. Texts of fewer than two tokens say nothing."""
    size = min(LENGTH, longest or LENGTH)
    for text in texts:
        ids = encoder.text(text)
        yield from (part for start in range(0, len(ids), size) if len(part := ids[start : start + size]) > 1)


def parted(rows: Iterable[Sequence[int]], tokens: int) -> Parts:
    """The windows to fit on, of so many positions in all, and those that are held out.

    Raises:
        InputError: Too little text.
    """
    parts = Parts([], [])
    total = 0
    for number, row in enumerate(rows):
        if number % HELD_OUT == 1 and sum(map(len, parts.held)) < JUDGED:
            parts.held.append(row)
            continue
        parts.fitted.append(row[: tokens - total])
        total += len(parts.fitted[-1])
        if total >= tokens and parts.held:
            break
    if not all(parts):
        raise InputError(
            f"The text has {sum(map(len, parts))} windows of up to {LENGTH} tokens; a lens needs {LEAST} or more.",
            hint="give more text, or none: then the model writes its own",
        )
    return parts


def own_windows(
    anatomy: Anatomy, encoder: Encoder, tokenizer: Any, tokens: int, state: Partial, *, progress: bool = False
) -> Iterator[Sequence[int]]:
    """Samples of the model, enough to fit on so many tokens. Those that an interrupted fit has kept are not written again."""
    wanted, total = tokens * HELD_OUT // (HELD_OUT - 1), 0
    with tqdm(total=wanted, unit="token", desc="sample", disable=None if progress else True) as bar:
        for number in count():
            if number == len(state.batches):
                state.batches.append(_samples(anatomy, tokenizer, encoder.ends, SEED + number))
                state.save_now_and_then()
            if not state.batches[number]:
                raise InputError("The model ends every sample at once.", hint="give texts to fit on: --text FILE")
            for row in state.batches[number]:
                total += len(row)
                bar.update(len(row))
                yield row
            if total >= wanted:
                return


def _samples(anatomy: Anatomy, tokenizer: Any, ends: Any, seed: int) -> list[list[int]]:
    """Samples at temperature 1 from the beginning-of-sequence token, each up to its end token, if they say anything.

    The generator of torch is seeded, and then put back.
    """
    start = next((t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None), 0)
    batch = torch.full((BATCH, 1), start, device=anatomy.lm.device)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = anatomy.lm.generate(
            input_ids=batch, attention_mask=torch.ones_like(batch), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
            max_new_tokens=SAMPLE, repetition_penalty=1.0, pad_token_id=tokenizer.pad_token_id or start,
        )  # fmt: skip
    return [row for row in (_ended(row, ends) for row in made.tolist()) if len(row) > 1]


def _ended(row: list[int], ends: Any) -> list[int]:
    """A sample up to its first end token, which is not the one that it began with."""
    for place, token in enumerate(row[1:], start=1):
        if token in ends:
            return row[: place + 1]
    return row
