"""One step of decoding: compute scores from a forward's mature logits and captured states, with as little work as possible.

Compared with plain decoding, a step also reads the LM head's weights for the candidate layers and makes passes over [K, V].
The candidates' rows can go through the head together with the mature row, in one read of its weights. Or they are read
afterwards, only for rows that need them. `cost.cheaper_together` models both. The formulas belong to the method.
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
"""Upper limit of K * rows * V for the premature logits computed at a time (at least one row): 64 MiB in float32 on a CPU,
256 MiB with CUDA, half of that elsewhere. The dense contrast needs about six such buffers at its peak."""
CHUNK_ELEMENTS_ELSEWHERE = 2**25


class Step:
    """Scores the rows of a model with one configuration.

    Args:
        readout: The readout of the model, or of this worker's columns.
        config: The settings of a method.
        vocab: The vocabulary, or this worker's part of it.
        layers: Numbers of the candidates, followed by that of the mature layer.
        kernels: Whether kernels may compare all rows of a batch, see `candidates.Captured`.
        maps: The configuration's lens for the candidate layers.

    Attributes:
        rows: Number of positions scored so far.
        rows_saved: Number of positions that needed no premature layer, because a single token was plausible.
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
        """Forget which rows to read together, because the model's parts have changed."""
        self._plans.clear()

    def reads_together(self, hidden: Tensor, candidates: int, *, lazy: bool) -> bool:
        """Whether the head should read the candidates with the mature rows, its input `hidden` [..., d]."""
        if torch.compiler.is_compiling():
            return self._compiles_together(hidden, candidates)
        rows, kernel = hidden.shape[:-1].numel(), self._suits_kernel(hidden)
        key = (rows, candidates, hidden.device.type, hidden.dtype, kernel, lazy)
        if key not in self._plans:
            self._plans[key] = self._plan(*key)
        return self._plans[key]

    def _compiles_together(self, hidden: Tensor, candidates: int) -> bool:
        """`reads_together` while torch.compile traces. The rule holds for any number of rows, so that one compilation suffices.

        A decoding step has one position per row; one read of the head is then always cheaper. The batch size only matters for
        memory.
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
        """Whether the candidates may be read with the mature rows: if the method reads all of them, and not with the raw head.
        That head must match the old code exactly, whose tokens depend on its rounding where scores tie."""
        return self.method.reads_all and self.readout.transforms(self.config)

    def rows_to_read(self, mature: Tensor, hidden: list[Tensor]) -> Tensor:
        """The head's input [..., d] and the K captured states of that shape after the norm, stacked to [K+1, ..., d]."""
        captures = torch.stack([layer.to(mature.device) for layer in hidden])
        premature = self.readout.candidate_input(captures, self.config, self.maps)
        return torch.cat([mature[None], premature.to(mature.dtype)])

    def read_by_kernel(self, rows: Tensor) -> Reading | None:
        """Read `rows` [K+1, ..., d] with the compiled kernel; None if it does not suit this head."""
        if not self._suits_kernel(rows):
            return None
        head: Any = self.readout.head
        logits, log_z = native.head_product(head.weight, rows.flatten(0, -2))
        return Reading(logits.view(*rows.shape[:-1], -1), log_z.view(rows.shape[:-1]))

    def _suits_kernel(self, hidden: Tensor) -> bool:
        """Whether the compiled kernel can multiply this head with rows like `hidden`."""
        head: Any = self.readout.head
        return not torch.compiler.is_compiling() and native.suits(head) and hidden.dtype == head.weight.dtype

    def scores(self, mature: Tensor, read: Reading | list[Tensor], *, lazy: bool, positions: Tensor | None = None) -> Tensor:
        """Scores [R, V], float32 or better.

        Args:
            mature: Mature logits [R, V].
            read: The candidates' logits, if they were read together with the mature ones, or the K captured states [R, d].
            lazy: Whether to skip the candidates in rows whose token no layer can change.
            positions: Position of each row in its sequence [R], for methods that draw.
        """
        if not torch.compiler.is_compiling():  # a counter would make torch compile again at every step
            self.rows += len(mature)
        if isinstance(read, Reading):
            together = Read(self.readout, self.config, read, layers=self.layers, positions=positions)
            return self._score(mature, together, lazy)
        scores = mature.new_empty(mature.shape, dtype=wide_dtype(mature.dtype))
        size = chunk_rows(mature.device.type, len(read) * mature.shape[-1])
        for chunk in range(-(-mature.shape[0] // size)):  # compiled code then fits all batches with this number of chunks
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
    """Number of rows with this many elements to process at a time, at least one."""
    return max(1, _most_elements(device) // elements)


def _most_elements(device: str) -> int:
    return CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS_ELSEWHERE)
