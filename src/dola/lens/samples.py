"""Text to fit a lens on where none is given: what the model itself writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from tqdm.auto import tqdm

from dola.model.anatomy import Anatomy
from dola.text.encoding import Encoder

LENGTH = 256
BATCH = 16
SEED = 0


def own_texts(anatomy: Anatomy, tokenizer: Any, tokens: int, *, progress: bool = False) -> Iterator[Sequence[int]]:
    """Samples of the model at temperature 1, from its beginning-of-sequence token, until they have so many tokens.

    A sample is cut after its end token. The generator of torch is seeded, and then put back.
    """
    lm, count, ends = anatomy.lm, 0, Encoder.of(anatomy.lm, tokenizer).ends
    start = next((t for t in (tokenizer.bos_token_id, tokenizer.eos_token_id) if t is not None), 0)
    with torch.random.fork_rng(), tqdm(total=tokens, unit="token", desc="sample", disable=None if progress else True) as bar:
        torch.manual_seed(SEED)
        while count < tokens:
            batch = torch.full((BATCH, 1), start, device=lm.device)
            made = lm.generate(
                input_ids=batch, attention_mask=torch.ones_like(batch), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                max_new_tokens=LENGTH, repetition_penalty=1.0, pad_token_id=tokenizer.pad_token_id or start,
            )  # fmt: skip
            for row in made.tolist():
                row = _ended(row, ends)
                if len(row) > 1:
                    count += len(row)
                    bar.update(len(row))
                    yield row


def _ended(row: list[int], ends: Any) -> list[int]:
    """A sample up to its first end token, which is not the one that it began with."""
    for place, token in enumerate(row[1:], start=1):
        if token in ends:
            return row[: place + 1]
    return row
