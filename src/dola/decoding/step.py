"""One step of decoding: from the mature logits and the captures of a forward to its scores, for the least work.

What a step costs on top of plain decoding is reading the LM head's weights for the candidate layers, and passes over [K, V].

- Together or apart. The candidates' rows can go through the head together with the mature row, in one read of its weights, or
  apart, after it, and then only for rows that need them. `cost.cheaper_together` models both.
- Sparse or dense. On a CPU each row is contrasted where it is plausible and nowhere else, and candidates are compared on the
  tokens that carry the mature probability, with a bound on what the others could add (sparse.py). On an accelerator the same
  scores come from `contrast.contrast` for all rows at once, without a wait for the host.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dola import native
from dola.decoding.cost import cheaper_together, native_bound, product_bound
from dola.methods.config import DoLaConfig
from dola.methods.contrast import contrast
from dola.methods.sparse import Row
from dola.model.readout import Readout

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}
"""Premature logits are made for so many rows at a time that K * rows * V stays below this (one row is the least): 64 MiB in
float32 on a CPU, 256 MiB with CUDA, half of that elsewhere. The dense contrast needs about six such buffers at its peak."""
CHUNK_ELEMENTS_ELSEWHERE = 2**25


@dataclass
class Reading:
    """What one read of the head's weights gave, before any logit transform.

    Attributes:
        logits: The head's output for the mature row and the candidates, [K+1, ..., V].
        log_z: log sum exp of it, float32 [K+1, ...], where the compiled kernel has read.
    """

    logits: Tensor
    log_z: Tensor | None = None

    def of(self, logits: Tensor) -> Reading:
        """The same without `log_z` where the mature row is not `logits`: a model may run its head for other things first."""
        if self.log_z is None:
            return self
        mature = self.logits[0]
        same = logits.data_ptr() == mature.data_ptr() or torch.equal(logits, mature.to(logits))  # False for other shapes
        return self if same else Reading(self.logits)

    def flat(self) -> Reading:
        """The same with one dimension of rows: [K+1, R, V] and [K+1, R]."""
        return Reading(self.logits.flatten(1, -2), None if self.log_z is None else self.log_z.flatten(1))


class Step:
    """How one configuration scores the rows of a model.

    Attributes:
        rows: How many positions were contrasted so far.
        rows_saved: How many of them needed no contrast, because a single token was plausible.
    """

    def __init__(self, readout: Readout, config: DoLaConfig) -> None:
        self.readout, self.config = readout, config
        self.rows = self.rows_saved = 0
        self._plans: dict[tuple[object, ...], bool] = {}

    def forget_plans(self) -> None:
        """Decide again what to read together: the model has other parts now."""
        self._plans.clear()

    def reads_together(self, hidden: Tensor, candidates: int, *, lazy: bool) -> bool:
        """Whether the head is to read the candidates with the mature rows, its input `hidden` [..., d]."""
        if torch.compiler.is_compiling():
            return self._compiles_together(hidden, candidates)
        rows, kernel = hidden.shape[:-1].numel(), self._suits_kernel(hidden)
        key = (rows, candidates, hidden.device.type, hidden.dtype, kernel, lazy)
        if key not in self._plans:
            self._plans[key] = self._plan(*key)
        return self._plans[key]

    def _compiles_together(self, hidden: Tensor, candidates: int) -> bool:
        """The same while torch.compile traces: by what holds for any number of rows, or each number would be compiled for.

        A step of decoding has one position a row, and one read of the head is then the cheaper one, whatever the rows. What is
        left of the batch is one comparison: its memory.
        """
        if self.config.raw_head or hidden.dim() != 3 or hidden.shape[1] != 1:
            return False
        return bool(self.readout.vocabulary * candidates * hidden.shape[0] <= _most_elements(hidden.device.type))

    def _plan(self, rows: int, candidates: int, device: str, dtype: torch.dtype, kernel: bool, lazy: bool) -> bool:
        if self.config.raw_head:  # parity comes first: the old code's tokens depend on its rounding where scores tie
            return False
        if self.readout.vocabulary * rows * candidates > _most_elements(device):
            return False
        apart = product_bound(device, dtype)
        bound = native_bound(dtype) if kernel else apart
        return cheaper_together(rows, candidates, bound=bound, apart_bound=apart, lazy=lazy and device == "cpu")

    def rows_to_read(self, mature: Tensor, hidden: list[Tensor]) -> Tensor:
        """The head's input [..., d] and the K captures of the same shape, normed: [K+1, ..., d]."""
        captures = torch.stack([layer.to(mature.device) for layer in hidden])
        premature = self.readout.head_input(captures, final_norm=self.config.final_norm)
        return torch.cat([mature[None], premature.to(mature.dtype)])

    def read_by_kernel(self, rows: Tensor) -> tuple[Tensor, Reading] | None:
        """Mature logits and reading of `rows` [K+1, ..., d] by the compiled kernel, where it suits this head."""
        if not self._suits_kernel(rows):
            return None
        head: Any = self.readout.head
        logits, log_z = native.head_product(head.weight, rows.flatten(0, -2))
        logits, log_z = logits.view(*rows.shape[:-1], -1), log_z.view(rows.shape[:-1])
        return logits[0], Reading(logits, log_z)

    def _suits_kernel(self, hidden: Tensor) -> bool:
        """Whether the compiled kernel does this head's product with rows like `hidden`."""
        head: Any = self.readout.head
        return not torch.compiler.is_compiling() and native.suits(head) and hidden.dtype == head.weight.dtype

    def scores(self, mature: Tensor, read: Reading | list[Tensor], *, lazy: bool) -> Tensor:
        """Scores [R, V], float32 or better.

        Args:
            mature: Mature logits [R, V].
            read: The candidates' logits, where they have been read together with the mature ones, or the K captures [R, d].
            lazy: Whether rows with a single plausible token may go without a contrast.
        """
        if not torch.compiler.is_compiling():  # a counter would have torch compile again at every step
            self.rows += len(mature)
        if isinstance(read, Reading):
            return self._contrast(mature, read, lazy)
        scores = mature.new_empty(mature.shape, dtype=torch.promote_types(mature.dtype, torch.float32))
        size = chunk_rows(mature.device.type, len(read) * mature.shape[-1])
        for chunk in range(-(-mature.shape[0] // size)):  # compiled code then holds for all batches of so many chunks
            rows = slice(chunk * size, (chunk + 1) * size)
            scores[rows] = self._contrast(mature[rows], [layer[rows] for layer in read], lazy)
        return scores

    def _contrast(self, mature: Tensor, read: Reading | list[Tensor], lazy: bool) -> Tensor:
        if mature.device.type == "cpu" and not torch.compiler.is_compiling():
            return self._sparse(mature, read, lazy)
        # All rows at once; nothing depends on their values, so that the host waits for nothing.
        premature = self._transform(read.logits[1:]) if isinstance(read, Reading) else self._read_apart(read)
        config = self.config
        return contrast(mature, premature.to(mature.device), relative_top=config.relative_top, divergence=config.divergence)

    def _sparse(self, mature: Tensor, read: Reading | list[Tensor], lazy: bool) -> Tensor:
        """Row by row, and only rows that need it."""
        scores = mature.new_empty(mature.shape, dtype=torch.promote_types(mature.dtype, torch.float32))
        log_z = read.log_z if isinstance(read, Reading) and self.readout.logit_transform is None else None
        undecided: list[tuple[int, Row]] = []
        for r, logits in enumerate(mature):
            row = Row(logits, scores[r], relative_top=self.config.relative_top, log_z=None if log_z is None else log_z[0, r])
            if lazy and row.settled:
                row.settle()
            else:
                undecided.append((r, row))
        self.rows_saved += len(mature) - len(undecided)
        divergence = self.config.divergence
        if isinstance(read, Reading):
            for r, row in undecided:
                premature = self._transform(read.logits[1:, r])
                if log_z is None:
                    row.contrast(premature, divergence)
                else:
                    jsd = native.jsd_less_ln2(read.logits[:, r], log_z[:, r]) if divergence == "jsd" else None
                    row.contrast(premature, divergence, log_z=log_z[1:, r], jsd=jsd)
        elif undecided:
            indices = [r for r, _ in undecided]
            premature = self._read_apart([layer[indices] for layer in read]).to(mature.device)
            z, jsd = self._compare(mature[indices], premature, torch.stack([row.log_z for _, row in undecided]))
            for i, (_, row) in enumerate(undecided):
                row.contrast(
                    premature[:, i], divergence, log_z=None if z is None else z[:, i], jsd=None if jsd is None else jsd[:, i]
                )
        return scores

    def _compare(self, mature: Tensor, premature: Tensor, log_z: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Normalisers and divergences [K, R] of candidates [K, R, V], where something makes them for all rows at once."""
        return None, None

    def _read_apart(self, hidden: list[Tensor]) -> Tensor:
        """Logits [K, R, V] of the candidates at captures [R, d]."""
        final_norm, raw = self.config.final_norm, self.config.raw_head
        return self.readout.readout(torch.stack(hidden), final_norm=final_norm, logit_transform=not raw)

    def read_layer(self, hidden: Tensor) -> Tensor:
        """The head's output for one candidate's states, before any logit transform: [..., d] to [..., V]."""
        return self.readout.readout(hidden, final_norm=self.config.final_norm, logit_transform=False)

    def _transform(self, premature: Tensor) -> Tensor:
        transform = None if self.config.raw_head else self.readout.logit_transform
        return premature if transform is None else transform(premature)


def chunk_rows(device: str, elements: int) -> int:
    """How many rows of so many elements are dealt with at a time: one is the least."""
    return max(1, _most_elements(device) // elements)


def _most_elements(device: str) -> int:
    return CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS_ELSEWHERE)
