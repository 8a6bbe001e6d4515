"""One step of decoding: compute scores from a forward's mature logits and captured states, with as little work as possible.

Compared with plain decoding, a step also reads the LM head's weights for the candidate layers and makes passes over [K, V].
The candidates' rows can go through the head together with the mature row, in one read of its weights. Or they are read
afterwards, only for rows that need them. `cost.cheaper_together` models both. The formulas belong to the method.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dola.decoding.candidates import Captured, Read, sums_states, weighted
from dola.decoding.cost import cheaper_together, native_bound, product_bound
from dola.decoding.reading import Reading
from dola.errors import ConfigError, LensError
from dola.lens.maps import Maps
from dola.methods.config import MethodConfig
from dola.methods.method import AT_ONCE
from dola.methods.registry import method_of
from dola.methods.vocabulary import WHOLE, Vocabulary, wide_dtype
from dola.model.readout import Readout
from dola.native import Product

CHUNK_ELEMENTS = {"cpu": 30 * 2**18, "cuda": 2**26}
"""Upper limit of K * rows * V for the premature logits computed at a time (at least one row), in float32: 256 MiB with CUDA,
half of that elsewhere, 30 MiB on a CPU (there twice as many in bfloat16). glibc asks the system for more than 32 MiB again each
time, and getting those pages took longer than reading the head. The dense contrast needs about six such buffers at its peak."""
CHUNK_ELEMENTS_ELSEWHERE = 2**25


class Step:
    """Scores the rows of a model with one configuration.

    Args:
        readout: The readout of the model, or of this worker's columns.
        config: The settings of a method.
        vocab: The vocabulary, or this worker's part of it.
        layers: Numbers of the candidates, followed by that of the mature layer.
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
        maps: Maps | None = None,
    ) -> None:
        self.readout, self.config, self.method, self.layers = readout, config, method_of(config), layers
        self.maps = maps
        if config.lens is not None and maps is None:
            raise LensError(
                f"lens={config.lens!r} cannot be used here: nothing reads it.",
                hint="leave it out, or please report how you got here",
            )
        self._vocab = vocab
        self.rows = self.rows_saved = 0
        self._plans: dict[tuple[object, ...], bool] = {}
        self._firsts = self._all_first_reads()

    def forget_plans(self) -> None:
        """Forget which rows to read together, because the model's parts have changed."""
        self._plans.clear()
        self._firsts = self._all_first_reads()

    def _first(self, hidden: Tensor) -> Tensor:
        """`_first_reads` of the mature rows `hidden` [..., d]. While torch.compile traces, their number is not known."""
        rows = 1 if torch.compiler.is_compiling() else min(max(1, hidden.shape[:-1].numel()), AT_ONCE)
        return self._firsts[rows - 1]

    def _all_first_reads(self) -> list[Tensor]:
        """`_first_reads` of 1 to `AT_ONCE` rows, made once: what changed from call to call would be compiled again."""
        return [self._first_reads(rows) for rows in range(1, AT_ONCE + 1)]

    def _first_reads(self, rows: int) -> Tensor:
        """What is read along with the mature rows if that is cheaper, see `Method.first_reads`; [0, K] if nothing may be.

        The raw head must match the old code exactly, whose tokens depend on its rounding where scores tie.
        """
        found = self.method.first_reads(self.layers, rows) if self.layers else torch.zeros(0, 0)
        single = (found != 0).sum(dim=-1) == 1
        allowed = self.readout.transforms(self.config) and (sums_states(self.readout) or bool(single.all()))
        return found if allowed else found[:0]

    def reads_together(self, hidden: Tensor, *, lazy: bool) -> bool:
        """Whether the head should read the candidates with the mature rows, its input `hidden` [..., d]."""
        candidates = len(self._first(hidden))
        if candidates == 0:
            return False
        if torch.compiler.is_compiling():
            return self.method.reads_all and self._compiles_together(hidden, candidates)
        rows, kernel = hidden.shape[:-1].numel(), self.readout.suits_kernel(hidden)
        key = (rows, candidates, hidden.device.type, hidden.dtype, kernel, lazy)
        if key not in self._plans:
            self._plans[key] = self._plan(*key)
        return self._plans[key]

    def _compiles_together(self, hidden: Tensor, candidates: int) -> bool:
        """`reads_together` while torch.compile traces. The rule holds for any number of rows, so that one compilation suffices.

        A decoding step has one position per row; one read of the head is then always cheaper. The batch size only matters for
        memory.
        """
        if hidden.dim() != 3 or hidden.shape[1] != 1:
            return False
        most = _most_elements(hidden.device.type, hidden.dtype)
        return bool(self.readout.vocabulary * candidates * hidden.shape[0] <= most)

    def _plan(self, rows: int, candidates: int, device: str, dtype: torch.dtype, kernel: bool, lazy: bool) -> bool:
        if self.readout.vocabulary * rows * candidates > _most_elements(device, dtype):
            return False
        bound = native_bound(dtype) if kernel else product_bound(device, dtype)
        return cheaper_together(rows, candidates, bound=bound, lazy=lazy and device == "cpu")

    def reads_mature(self, hidden: Tensor) -> bool:
        """Whether the kernel should read the mature rows alone, the head's input `hidden` [..., d], if the candidates are read
        afterwards. A row's logits then do not depend on the batch, and their normalizers are known."""
        return len(self._first(hidden)) > 0 and self.readout.suits_kernel(hidden)

    def rows_to_read(self, mature: Tensor, hidden: list[Tensor]) -> Tensor:
        """The head's input [..., d] and what is read along with it, made of the K captured states: [1 + m, ..., d]."""
        captures = torch.stack([layer.to(mature.device) for layer in hidden])
        premature = self.readout.candidate_input(captures, self.config, self.maps)
        if not self.method.reads_all:
            premature = weighted(self._first(mature), premature)
        return torch.cat([mature[None], premature.to(mature.dtype)])

    def read_by_kernel(self, rows: Tensor) -> Reading | None:
        """Read `rows`, of `rows_to_read` or the mature ones alone [1, ..., d], with the compiled kernel; None if it does not
        suit this head."""
        return self.reading(self.readout.product(rows)) if self.readout.suits_kernel(rows) else None

    def reading(self, product: Product) -> Reading:
        """The head's output for `rows_to_read`, [1 + m, ..., V], or for the mature rows alone, [1, ..., V]."""
        if len(product.logits) == 1:
            return Reading(*product, sums=())
        all_read = self.method.reads_all
        return Reading(*product, sums=None if all_read else tuple(map(tuple, self._first(product.logits[0]).tolist())))

    def scores(
        self,
        mature: Tensor,
        hidden: list[Tensor],
        reading: Reading | None = None,
        *,
        lazy: bool,
        positions: Tensor | None = None,
    ) -> Tensor:
        """Scores [R, V], float32 or better.

        Args:
            mature: Mature logits [R, V].
            hidden: The K captured states [R, d]. May be empty if `reading` has all candidates.
            reading: What was read together with the mature rows.
            lazy: Whether to skip the candidates in rows whose token no layer can change.
            positions: Position of each row in its sequence [R], for methods that draw.
        """
        if not torch.compiler.is_compiling():  # a counter would make torch compile again at every step
            self.rows += len(mature)
        if reading is not None and reading.sums is None:
            together = Read(self.readout, self.config, reading, layers=self.layers, positions=positions)
            return self._score(mature, together, lazy)
        alone = reading is None or not reading.sums
        held = len(hidden) if self.method.reads_all else 1  # others read a layer at a time
        most = chunk_rows(mature.device.type, held * mature.shape[-1], mature.dtype) if alone else max(1, len(mature))
        size = most if torch.compiler.is_compiling() else _even(len(mature), most)

        def of(rows: slice) -> Tensor:
            apart = Captured(
                self.readout,
                self.config,
                [layer[rows] for layer in hidden],
                layers=self.layers,
                positions=None if positions is None else positions[rows],
                maps=self.maps,
                reading=None if reading is None else reading.rows(rows),
            )
            return self._score(mature[rows], apart, lazy)

        chunks = -(-mature.shape[0] // size)  # compiled code then fits all batches with this number of chunks
        if chunks == 1:
            return of(slice(None))
        scores = mature.new_empty(mature.shape, dtype=wide_dtype(mature.dtype))
        for chunk in range(chunks):
            rows = slice(chunk * size, (chunk + 1) * size)
            scores[rows] = of(rows)
        return scores

    def _score(self, mature: Tensor, candidates: Read | Captured, lazy: bool) -> Tensor:
        scores = self.method.scores(mature, candidates, self._vocab, lazy=lazy)
        _check_scores(self.config.method, scores, mature)
        if not torch.compiler.is_compiling():
            self.rows_saved += candidates.saved
        return scores.to(wide_dtype(mature.dtype))

    def read_layer(self, hidden: Tensor, k: int) -> Tensor:
        """The head's output for the states of the k-th candidate, before any logit transform: [..., d] to [..., V]."""
        maps = self.maps and self.maps.of_one(k)
        return self.readout.read_head(self.readout.candidate_input(hidden, self.config, maps))


def _check_scores(method: str, scores: Any, mature: Tensor) -> None:
    """Refuse what a method of another package returned if it is not scores of these rows."""
    wanted = wide_dtype(mature.dtype)
    if isinstance(scores, Tensor) and scores.shape == mature.shape and wide_dtype(scores.dtype) == scores.dtype:
        return
    found = f"{list(scores.shape)} {scores.dtype}" if isinstance(scores, Tensor) else type(scores).__name__
    raise ConfigError(
        f"The method {method!r} returned {found} as scores; expected {list(mature.shape)} {wanted}, one row for each row of "
        "mature logits.",
        hint="the method's package has to be corrected: see docs/add-a-method.md",
    )


def chunk_rows(device: str, elements: int, dtype: torch.dtype = torch.float32) -> int:
    """Number of rows with this many elements to process at a time, at least one."""
    return max(1, _most_elements(device, dtype) // elements)


def _even(rows: int, most: int) -> int:
    """The size of chunks of at most `most` rows that are as large as one another."""
    chunks = max(1, -(-rows // most))
    return max(1, -(-rows // chunks))


def _most_elements(device: str, dtype: torch.dtype) -> int:
    found = CHUNK_ELEMENTS.get(device, CHUNK_ELEMENTS_ELSEWHERE)
    return found * 4 // dtype.itemsize if device == "cpu" else found
