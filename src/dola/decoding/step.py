"""One step of decoding: from the mature logits and the captures of a forward to its scores, for the least work.

What a step costs on top of plain decoding is reading the LM head's weights for the candidate layers, and passes over [K, V].
The candidates' rows can go through the head together with the mature row, in one read of its weights, or apart, after it, and
then only for rows that need them: `cost.cheaper_together` models both. What is computed is the method's affair.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dola import native
from dola.decoding.candidates import Captured, Read
from dola.decoding.cost import cheaper_together, native_bound, product_bound
from dola.decoding.reading import Reading
from dola.errors import LensError
from dola.lens.maps import Maps
from dola.methods.config import MethodConfig
from dola.methods.registry import method_of
from dola.methods.vocabulary import WHOLE, Vocabulary, wide_dtype
from dola.model.readout import Readout

CHUNK_ELEMENTS = {"cpu": 2**24, "cuda": 2**26}
"""Premature logits are made for so many rows at a time that K * rows * V stays below this (one row is the least): 64 MiB in
float32 on a CPU, 256 MiB with CUDA, half of that elsewhere. The dense contrast needs about six such buffers at its peak."""
CHUNK_ELEMENTS_ELSEWHERE = 2**25


class Step:
    """How one configuration scores the rows of a model.

    Args:
        readout: The readout of the model, or of this worker's columns.
        config: The settings of a method.
        vocab: The vocabulary, or this worker's part of it.
        layers: The numbers of the candidates, and last that of the mature layer.
        kernels: Whether kernels may compare all rows of a batch: see `candidates.Captured`.
        maps: The configuration's lens on the candidate layers.

    Attributes:
        rows: How many positions were scored so far.
        rows_saved: How many of them needed no premature layer, because a single token was plausible.
    """

    def __init__(
        self,
        readout: Readout,
        config: MethodConfig,
        vocab: Vocabulary = WHOLE,
        *,
        layers: tuple[int, ...] = (),
        kernels: bool = False,
        maps: Maps | None = None,
    ) -> None:
        self.readout, self.config, self.method, self.layers = readout, config, method_of(config), layers
        self.maps = maps
        if config.lens is not None and maps is None:
            raise LensError(
                f"lens={config.lens!r} cannot be used here: nothing reads it.",
                hint="leave it out, or please report how you got here",
            )
        self._vocab, self._kernels = vocab, kernels
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
        if not self._may_read_together() or hidden.dim() != 3 or hidden.shape[1] != 1:
            return False
        return bool(self.readout.vocabulary * candidates * hidden.shape[0] <= _most_elements(hidden.device.type))

    def _plan(self, rows: int, candidates: int, device: str, dtype: torch.dtype, kernel: bool, lazy: bool) -> bool:
        if not self._may_read_together():
            return False
        if self.readout.vocabulary * rows * candidates > _most_elements(device):
            return False
        apart = product_bound(device, dtype)
        bound = native_bound(dtype) if kernel else apart
        return cheaper_together(rows, candidates, bound=bound, apart_bound=apart, lazy=lazy and device == "cpu")

    def _may_read_together(self) -> bool:
        """Whether the method reads all candidates. With the raw head parity comes first: the old code's tokens depend on its
        rounding where scores tie."""
        return self.method.reads_all and self.readout.transforms(self.config)

    def rows_to_read(self, mature: Tensor, hidden: list[Tensor]) -> Tensor:
        """The head's input [..., d] and the K captures of the same shape, normed: [K+1, ..., d]."""
        captures = torch.stack([layer.to(mature.device) for layer in hidden])
        premature = self.readout.candidate_input(captures, self.config, self.maps)
        return torch.cat([mature[None], premature.to(mature.dtype)])

    def read_by_kernel(self, rows: Tensor) -> Reading | None:
        """Reading of `rows` [K+1, ..., d] by the compiled kernel, where it suits this head."""
        if not self._suits_kernel(rows):
            return None
        head: Any = self.readout.head
        logits, log_z = native.head_product(head.weight, rows.flatten(0, -2))
        return Reading(logits.view(*rows.shape[:-1], -1), log_z.view(rows.shape[:-1]))

    def _suits_kernel(self, hidden: Tensor) -> bool:
        """Whether the compiled kernel does this head's product with rows like `hidden`."""
        head: Any = self.readout.head
        return not torch.compiler.is_compiling() and native.suits(head) and hidden.dtype == head.weight.dtype

    def scores(self, mature: Tensor, read: Reading | list[Tensor], *, lazy: bool, positions: Tensor | None = None) -> Tensor:
        """Scores [R, V], float32 or better.

        Args:
            mature: Mature logits [R, V].
            read: The candidates' logits, where they have been read together with the mature ones, or the K captures [R, d].
            lazy: Whether rows whose token no layer can change may go without one.
            positions: Position of each row in its sequence [R], for methods that draw.
        """
        if not torch.compiler.is_compiling():  # a counter would have torch compile again at every step
            self.rows += len(mature)
        if isinstance(read, Reading):
            together = Read(self.readout, self.config, read, layers=self.layers, positions=positions)
            return self._score(mature, together, lazy)
        scores = mature.new_empty(mature.shape, dtype=wide_dtype(mature.dtype))
        size = chunk_rows(mature.device.type, len(read) * mature.shape[-1])
        for chunk in range(-(-mature.shape[0] // size)):  # compiled code then holds for all batches of so many chunks
            rows = slice(chunk * size, (chunk + 1) * size)
            states = [layer[rows] for layer in read]
            apart = Captured(
                self.readout,
                self.config,
                states,
                kernels=self._kernels,
                layers=self.layers,
                positions=None if positions is None else positions[rows],
                maps=self.maps,
            )
            scores[rows] = self._score(mature[rows], apart, lazy)
        return scores

    def _score(self, mature: Tensor, candidates: Read | Captured, lazy: bool) -> Tensor:
        scores = self.method.scores(mature, candidates, self._vocab, lazy=lazy)
        if not torch.compiler.is_compiling():
            self.rows_saved += candidates.saved
        return scores

    def read_layer(self, hidden: Tensor, k: int) -> Tensor:
        """The head's output for the states of the k-th candidate, before any logit transform: [..., d] to [..., V]."""
        maps = self.maps and self.maps.of_one(k)
        return self.readout.read_head(self.readout.candidate_input(hidden, self.config, maps))


def chunk_rows(device: str, elements: int) -> int:
    """How many rows of so many elements are dealt with at a time: one is the least."""
    return max(1, _most_elements(device) // elements)


def _most_elements(device: str) -> int:
    return CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS_ELSEWHERE)
