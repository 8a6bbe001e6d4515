"""The candidates that a step passes to the method: already read with the mature rows, or captured and read on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dola import native
from dola.decoding.reading import Reading
from dola.lens.maps import Maps
from dola.methods.config import MethodConfig
from dola.methods.method import Candidates, ReadRows
from dola.methods.vocabulary import wide, wide_dtype
from dola.model.readout import Cut, Readout, Scale
from dola.native import Product

Rows = Sequence[int] | Tensor | None


class Read(Candidates):
    """Candidates that went through the head with the mature rows.

    Args:
        readout: The readout of the model.
        config: The settings, which say how candidates are read out.
        reading: The head's output for mature rows and candidates, with one dimension of rows.
        layers, positions: See `Candidates`.
    """

    def __init__(
        self,
        readout: Readout,
        config: MethodConfig,
        reading: Reading,
        *,
        layers: tuple[int, ...] = (),
        positions: Tensor | None = None,
    ) -> None:
        self._readout, self._config, self._reading = readout, config, reading
        self.layers, self.positions = layers, positions

    def __len__(self) -> int:
        """K."""
        return len(self._reading.logits) - 1

    def logits(self, k: int | None = None, rows: Rows = None) -> Tensor:
        """See `Candidates.logits`."""
        read = self._reading.logits[1:] if k is None else self._reading.logits[1 + k]
        return self._readout.after_head(_some(read, rows), self._config)

    def combined(self, mature: Tensor, weights: Tensor, rows: Rows = None) -> Tensor:
        """See `Candidates.combined`."""
        return _combined_logits(self, mature, weights, rows)

    def mature_log_z(self) -> Tensor | None:
        """log sum exp of the mature logits, if the kernel has computed it."""
        known = self._reading.log_z if self._readout.logit_transform is None else None  # of other logits with a transform
        return None if known is None else known[0]

    def read(self, mature: Tensor, log_z: Tensor, rows: Tensor, *, jsd: bool) -> ReadRows:
        """See `Candidates.read`. Without a logit transform nothing is copied."""
        if self._readout.logit_transform is not None and self._readout.transforms(self._config):
            return compared(ReadRows(self.logits(rows=rows), torch.arange(len(rows))), mature, log_z, rows, jsd=jsd)
        z = None if self._reading.log_z is None else self._reading.log_z[1:, rows]
        return compared(ReadRows(self._reading.logits[1:], rows, z), mature, log_z, rows, jsd=jsd)


class Captured(Candidates):
    """Candidates whose hidden states were captured. Each read multiplies states with the head.

    Args:
        readout: The readout of the model, or of this worker's columns.
        config: The settings, which say how candidates are read out.
        hidden: The states of each candidate, [R, d].
        layers, positions: See `Candidates`.
        maps: The configuration's lens for these layers.
        reading: The mature rows and what was read along with them, with one dimension of rows.
    """

    def __init__(
        self,
        readout: Readout,
        config: MethodConfig,
        hidden: list[Tensor],
        *,
        layers: tuple[int, ...] = (),
        positions: Tensor | None = None,
        maps: Maps | None = None,
        reading: Reading | None = None,
    ) -> None:
        self._readout, self._config, self._hidden = readout, config, hidden
        self.layers, self.positions, self._maps = layers, positions, maps
        self._reading = reading if reading is None or readout.logit_transform is None else reading.logits_only()
        sums = () if reading is None else reading.sums or ()
        self._places = {weights: place for place, weights in enumerate(sums, start=1)}
        single = [0.0] * (len(hidden) - 1) + [1.0]  # the weights of a sum that is one candidate, sorted
        self._alone = {weights.index(1.0): place for weights, place in self._places.items() if sorted(weights) == single}

    def __len__(self) -> int:
        """K."""
        return len(self._hidden)

    def mature_log_z(self) -> Tensor | None:
        """Log sum exp of the mature logits, if the kernel has computed it."""
        return None if self._reading is None or self._reading.log_z is None else self._reading.log_z[0]

    def mature_entropy(self) -> Tensor | None:
        """Entropy of the mature softmax, if the kernel has computed it."""
        return None if self._reading is None or self._reading.entropy is None else self._reading.entropy[0]

    def logits(self, k: int | None = None, rows: Rows = None) -> Tensor:
        """See `Candidates.logits`."""
        return self.product(range(len(self)), rows).logits if k is None else self.product([k], rows).logits[0]

    def some(self, layers: Sequence[int], rows: Rows = None) -> Tensor:
        """See `Candidates.some`."""
        return self.product(layers, rows).logits

    def with_entropy(self, layers: Sequence[int], rows: Rows = None) -> tuple[Tensor, Tensor | None]:
        """See `Candidates.with_entropy`."""
        found = self.product(layers, rows)
        return found.logits, found.entropy

    def product(self, layers: Sequence[int], rows: Rows = None) -> Product:
        """Logits [k, r, V] of some candidates, with what the kernel found on the way. None is read twice."""
        if all(k in self._alone for k in layers):
            return _stacked([self._read_along(k, rows) for k in layers])
        states = [_some(self._hidden[k], rows) for k in layers]
        maps = self._maps and self._maps.of([self._maps.layers[k] for k in layers])
        together = states[0][None] if len(states) == 1 else torch.stack(states)  # a single one is not copied
        return self._readout.premature_product(together, self._config, maps)

    def _read_along(self, k: int, rows: Rows) -> Product:
        """Logits [r, V] of a candidate that was read along with the mature rows."""
        assert self._reading is not None
        place, read = self._alone[k], self._reading
        logits = self._readout.after_head(_some(read.logits[place], rows), self._config)
        log_z, entropy = (each if each is None else _entries(each[place], rows) for each in (read.log_z, read.entropy))
        return Product(logits, log_z, entropy)

    def combined(self, mature: Tensor, weights: Tensor, rows: Rows = None) -> Tensor:
        """See `Candidates.combined`. The head gets the sum of the states; the mature layer's logits are known already."""
        readout, scale = self._readout, _scale(self._readout)
        if not sums_states(readout):
            return _combined_logits(self, mature, weights, rows)
        head: Any = readout.head
        if (read := self._read_combined(weights)) is not None:
            logits = wide(readout.after_head(_some(read, rows), self._config))
        else:
            states = torch.stack([_some(layer, rows) for layer in self._hidden])
            inputs = readout.candidate_input(states, self._config, self._maps)
            read = readout.product(weighted(weights[None, :-1], inputs)[0]).logits
            logits = wide(readout.after_head(read, self._config))
        dtype = logits.dtype
        if head.bias is not None:  # the head added it once, whatever the sum of the weights
            bias = head.bias.to(dtype) * (scale or 1.0 if readout.transforms(self._config) else 1.0)
            logits = logits + (weights[:-1].sum().to(dtype) - 1) * bias[: logits.shape[-1]]
        return logits.to(mature.device) + weights[-1] * mature

    def _read_combined(self, weights: Tensor) -> Tensor | None:
        """The head's output for this weighted sum, if it was read along with the mature rows."""
        place = self._places.get(tuple(weights[:-1].float().tolist())) if self._places else None
        return None if place is None or self._reading is None else self._reading.logits[place]

    def read(self, mature: Tensor, log_z: Tensor, rows: Tensor, *, jsd: bool) -> ReadRows:
        """See `Candidates.read`. The compiled kernel reads the head where it can; torch reads the raw head."""
        read = self.product(range(len(self)), rows)
        found = ReadRows(read.logits.to(mature.device), torch.arange(len(rows), device=mature.device), read.log_z)
        return compared(found, mature, log_z, rows, jsd=jsd)


def compared(read: ReadRows, mature: Tensor, log_z: Tensor, rows: Tensor, *, jsd: bool) -> ReadRows:
    """Add to `read` what the kernels for many rows compute, if they accept these logits. Arguments: see `Candidates.read`."""
    if not native.compares(mature, read.logits):
        return read
    if read.log_z is None:
        every = len(read.places) == read.logits.shape[1]  # then no row has to be copied
        read.log_z = native.log_z(read.logits)[:, read.places] if every else native.log_z(read.logits[:, read.places])
    if jsd:
        read.jsd = native.jsd_less_ln2(
            mature, log_z[rows], read.logits, read.log_z, mature_rows=rows, rows=read.places, prune=True
        )
    return read


def _stacked(products: list[Product]) -> Product:
    """One product [k, ...] of k products [...]; of a single one, a view."""
    if len(products) == 1:
        return Product(*(None if each is None else each[None] for each in products[0]))  # type: ignore[arg-type]
    return Product(*(None if part[0] is None else torch.stack(part) for part in zip(*products, strict=True)))  # type: ignore[arg-type]


def _some(values: Tensor, rows: Rows) -> Tensor:
    """The given rows of [..., R, x]; a single row is a view."""
    if rows is None:
        return values
    if not isinstance(rows, Tensor) and len(rows) == 1:
        return values[..., rows[0] : rows[0] + 1, :]
    return values[..., rows, :]


def _entries(values: Tensor, rows: Rows) -> Tensor:
    """The given rows' entries of [R]."""
    return values if rows is None else values[rows]


def sums_states(readout: Readout) -> bool:
    """Whether a weighted sum of layers has the logits of one state: a linear head, and at most a scale after it."""
    return native.is_plain_linear(readout.head) and _scale(readout) is not None


def weighted(weights: Tensor, inputs: Tensor) -> Tensor:
    """Weighted sums [m, ..., d] of the head's inputs [K, ..., d], in their dtype; summed in float32 or better."""
    dtype = wide_dtype(inputs.dtype)
    return torch.einsum("mk,k...d->m...d", weights.to(inputs.device, dtype), inputs.to(dtype)).to(inputs.dtype)


def _scale(readout: Readout) -> float | None:
    """The factor by which the model multiplies the head's output; None if its transform is not linear."""
    transform = readout.logit_transform
    if isinstance(transform, Scale):
        return transform.factor
    return 1.0 if transform is None or isinstance(transform, Cut) else None


def _combined_logits(candidates: Candidates, mature: Tensor, weights: Tensor, rows: Rows) -> Tensor:
    """The weighted sum of logits, computed one layer at a time."""
    total = weights[-1] * wide(mature)
    for k in range(len(candidates)):
        total = total + weights[k] * candidates.logits(k, rows).to(total)
    return total
