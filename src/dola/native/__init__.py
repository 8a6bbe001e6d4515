"""The compiled kernels, on Linux CPUs: the LM head for any number of rows in one read of its weights, with each row's
normalizer and entropy (head.c), and what decoding and scoring need of rows of logits (rows.c).

They are compiled with the machine's own C compiler when they are first needed (some seconds, once: dola's cache folder keeps
the library) and share torch's OpenMP threads. If they are not available, torch does the work: the same scores, more slowly.
`why_not` says what is missing, and DOLA_NATIVE=0 turns them off.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from dola.native.build import library
from dola.native.build import why_not as why_not

DTYPES = {torch.float32: 0, torch.bfloat16: 1}
MULTIPLE = 32
"""The hidden size must be a multiple of this."""
PART = 64 * 256
"""Tokens that one thread counts at a time, as in rows.c."""


DIVERGENCES = frozenset({"jsd", "reference"})
"""Divergences that the kernels support; torch computes any other."""


def suits(head: object) -> bool:
    """Whether the kernel can replace `head`: a plain linear layer without bias, in float32 or bfloat16 on a CPU."""
    return is_plain_linear(head) and head.bias is None and streams(head.weight)


def is_plain_linear(head: object) -> TypeGuard[nn.Linear]:
    """Whether a head is torch's own matrix product, in which rows do not affect each other.

    False for a layer with its own forward: compressed-tensors adds one to plain layers that round their inputs.
    """
    return type(head) is nn.Linear and "forward" not in vars(head) and type(head.weight) in (Tensor, nn.Parameter)


def streams(weight: Tensor) -> bool:
    """Whether `head_product` can read this weight [V, d]: a plain tensor, float32 or bfloat16 on a CPU."""
    return (
        weight.device.type == "cpu"
        and weight.dtype in DTYPES
        and type(weight) in (Tensor, nn.Parameter)
        and weight.is_contiguous()
        and weight.shape[1] % MULTIPLE == 0
        and why_not() is None
    )


def reads(logits: Tensor) -> bool:
    """Whether the kernels accept these logits [..., V]: float32 or bfloat16 on a CPU, outside of compiled graphs."""
    if torch.compiler.is_compiling():
        return False
    return logits.device.type == "cpu" and logits.dtype in DTYPES and logits.stride(-1) == 1 and why_not() is None


def compares(mature: Tensor, premature: Tensor) -> bool:
    """Whether `compare` accepts these two: both pass `reads` and have the same dtype."""
    return reads(mature) and reads(premature) and mature.dtype == premature.dtype


class Product(NamedTuple):
    """The head's output, and what the kernel found on the way; None where no kernel read the head.

    Attributes:
        logits: [..., V].
        log_z: Log sum exp of the logits, float32 [...].
        entropy: Entropy of their softmax in nats, float32 [...].
    """

    logits: Tensor
    log_z: Tensor | None = None
    entropy: Tensor | None = None


def head_product(weight: Tensor, rows: Tensor) -> Product:
    """`rows @ weight.T` in the dtype of both, with normalizers and entropies.

    Args:
        weight: [V, d], of a head that `suits`.
        rows: [..., d], of the same dtype.
    """
    rows = rows.contiguous()
    lead = rows.shape[:-1]
    logits = rows.new_empty(*lead, len(weight))
    log_z, entropy = torch.empty(2, *lead, dtype=torch.float32, device="cpu")
    if not lead.numel():
        return Product(logits, log_z, entropy)
    failed = library().dola_head(
        DTYPES[weight.dtype], *(tensor.data_ptr() for tensor in (weight, rows, logits, log_z, entropy)),
        *weight.shape, lead.numel(), torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory for the normalizers and entropies of {lead.numel()} rows")
    return Product(logits, log_z, entropy)


def jsd_less_ln2(
    mature: Tensor,
    log_z: Tensor,
    premature: Tensor,
    of_layers: Tensor,
    *,
    mature_rows: Tensor,
    rows: Tensor,
    prune: bool = False,
) -> Tensor:
    """Jensen-Shannon divergences of K layers from the mature one in n rows, minus ln 2: float32 [K, n], in [-ln 2, 0] nats.

    Args:
        mature: Mature logits [R, V] that the kernels accept (`compares`).
        log_z: Log sum exp of the n rows of them, float32 [n].
        premature: Logits [K, S, V] of the layers, of the same dtype.
        of_layers: Log sum exp of the n rows of them, float32 [K, n].
        mature_rows, rows: Which n rows of `mature` and of `premature`, int64 [n].
        prune: Whether only the largest of each row matters. Layers that a bound rules out get -inf, and a layer that is left
            alone gets 0.
    """
    found = torch.empty(of_layers.shape, dtype=torch.float32, device="cpu")
    log_z, of_layers, mature_rows, rows = (each.contiguous() for each in (log_z, of_layers, mature_rows, rows))
    operands = [tensor.data_ptr() for tensor in (mature, premature, mature_rows, rows, log_z, of_layers)]
    sizes = mature.stride(0), premature.stride(0), premature.stride(1), mature.shape[-1], *found.shape, torch.get_num_threads()
    kind, left = DTYPES[mature.dtype], torch.ones(found.shape, dtype=torch.bool, device="cpu")
    alone = None
    failed = 0
    if prune:
        room = torch.empty(torch.get_num_threads(), mature.shape[-1] + MULTIPLE, dtype=torch.int32, device="cpu")
        failed = library().dola_contenders(kind, *operands, left.data_ptr(), room.data_ptr(), *sizes)
        alone = left & (left.sum(dim=0) == 1)
        left &= ~alone
    failed = failed or library().dola_jsd(kind, *operands, left.data_ptr(), found.data_ptr(), *sizes)
    if failed:
        raise MemoryError(f"no memory for the divergences of {found.numel()} rows")
    return found if alone is None else found.masked_fill_(alone, 0)


@dataclass
class Opened:
    """The plausible tokens of R rows, and scores for all others.

    Attributes:
        scores: The logits, or log-probabilities less a constant, float32 or better [R, V].
        log_z: Log sum exp of each row [R].
        counts: Number of plausible tokens in each row, int64 [R].
        rows, tokens: Row and id of each plausible token, int64 [n], row by row.
    """

    scores: Tensor
    log_z: Tensor
    counts: Tensor
    rows: Tensor
    tokens: Tensor

    def within(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Which plausible tokens lie in the chosen rows, bool [n], and for each of these its row's place among them.

        Args:
            chosen: bool [R].
        """
        here = chosen[self.rows]
        return here, (chosen.cumsum(0) - 1)[self.rows[here]]


def open_rows(logits: Tensor, *, margin: float, below: float | None, log_z: Tensor | None = None) -> Opened:
    """Find the tokens whose logit is at least the row's largest plus `margin`, and the scores of all tokens.

    torch computes it if the kernels do not accept the logits.

    Args:
        logits: Mature logits [R, V].
        margin: At most 0; -inf finds all tokens.
        below: The scores are log-probabilities less this, in nats; None makes them the logits.
        log_z: Their log sum exp, float32 [R], if it is known.
    """
    if not reads(logits):
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
        inside = scores >= (scores.amax(dim=-1) + margin)[:, None]
        log_z = scores.logsumexp(dim=-1) if log_z is None else log_z
        rows, tokens = inside.nonzero(as_tuple=True)
        scores = scores if below is None else scores.sub_((log_z + below)[:, None])
        return Opened(scores, log_z, inside.sum(dim=-1), rows, tokens)
    n, vocabulary = logits.shape
    kind, threads = DTYPES[logits.dtype], torch.get_num_threads()
    known = log_z is not None
    log_z = torch.empty(n, dtype=torch.float32, device="cpu") if log_z is None else log_z.contiguous()
    least = torch.empty(n, dtype=torch.float32, device="cpu")
    counts = torch.empty(n, -(-vocabulary // PART), dtype=torch.int64, device="cpu")
    failed = library().dola_count(
        kind, *(tensor.data_ptr() for tensor in (logits, log_z, least, counts)),
        known, margin, logits.stride(0), vocabulary, n, threads,
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory for the normalizers of {n} rows")
    ends = counts.flatten().cumsum(0)
    scores = torch.empty(n, vocabulary, dtype=torch.float32, device="cpu")
    places = torch.empty(2, int(ends[-1]) if n else 0, dtype=torch.int64, device="cpu")
    starts = ends - counts.flatten()
    less = torch.zeros_like(log_z) if below is None else log_z + below
    library().dola_place(
        kind, *(tensor.data_ptr() for tensor in (logits, less, least, starts, scores, places[0], places[1])),
        logits.stride(0), vocabulary, n, threads,
    )  # fmt: skip
    return Opened(scores, log_z, counts.sum(dim=-1), places[0], places[1])


def log_z(logits: Tensor) -> Tensor:
    """log sum exp of logits [..., V], in float32 or better: [...]. torch computes it if the kernels do not accept them."""
    if not reads(logits):
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(dim=-1)
    rows = logits.reshape(-1, logits.shape[-1])
    found = torch.empty(len(rows), dtype=torch.float32, device="cpu")
    library().dola_log_z(
        DTYPES[rows.dtype], rows.data_ptr(), found.data_ptr(), rows.stride(0), rows.shape[1], len(rows), torch.get_num_threads()
    )
    return found.view(logits.shape[:-1])


def entropy(logits: Tensor) -> Tensor:
    """Entropies in nats of softmax of logits [..., V] that the kernels accept (`reads`), in one read of them: float32 [...]."""
    rows = logits.reshape(-1, logits.shape[-1])
    found = torch.empty(len(rows), dtype=torch.float32, device="cpu")
    failed = library().dola_entropy(
        DTYPES[rows.dtype], rows.data_ptr(), found.data_ptr(), rows.stride(0), rows.shape[1], len(rows), torch.get_num_threads()
    )
    if failed:
        raise MemoryError(f"no memory for the entropies of {len(rows)} rows")
    return found.view(logits.shape[:-1])


@dataclass
class Compared:
    """K layers' rows compared with the mature ones, float32; None for what was not requested.

    Attributes:
        log_z: log sum exp of the layers' logits, [K, n].
        jsd: Jensen-Shannon divergence minus ln 2, in nats, [K, n].
        reference: `contrast.reference_divergence`, [K, n].
        gain_log_z: log sum exp of F over the vocabulary, for each strength, [S, K, n].
        gain_largest: The largest F, [S, K, n].
    """

    log_z: Tensor
    jsd: Tensor | None
    reference: Tensor | None
    gain_log_z: Tensor
    gain_largest: Tensor


def compare(
    mature: Tensor,
    log_z: Tensor,
    layers: Sequence[Tensor] | Tensor,
    *,
    jsd: bool = False,
    reference: bool = False,
    strengths: Sequence[float] = (),
) -> Compared:
    """Compare layers' logits with the mature ones, in two passes over them.

    Args:
        mature: Mature logits [n, V] that the kernels accept (`compares`).
        log_z: Their log sum exp, float32 [n].
        layers: Logits of K layers [n, V] each, of the same dtype and with rows equally far apart.
        jsd, reference: What to compute besides the layers' own log sum exp.
        strengths: The strengths of the contrast to compute F for; at most 1e30 each.
    """
    rows = list(layers)
    shape, steps = (len(rows), len(mature)), rows[0].stride(0)
    assert all(each.stride(0) == steps and each.shape == mature.shape for each in rows)
    asked = {"log_z": True, "jsd": jsd, "reference": reference}
    found = {name: torch.empty(shape, dtype=torch.float32, device="cpu") if wanted else None for name, wanted in asked.items()}
    gains = torch.empty(2, len(strengths), *shape, dtype=torch.float32, device="cpu")
    log_z = log_z.contiguous()
    failed = library().dola_compare(
        DTYPES[mature.dtype], mature.data_ptr(), (ctypes.c_void_p * len(rows))(*(each.data_ptr() for each in rows)),
        log_z.data_ptr(), *(None if each is None else each.data_ptr() for each in found.values()), gains.data_ptr(),
        (ctypes.c_float * len(strengths))(*strengths), len(strengths), mature.stride(0), steps, mature.shape[1],
        len(mature), len(rows), torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory to compare rows of {mature.shape[1]} logits")
    assert found["log_z"] is not None
    return Compared(found["log_z"], found["jsd"], found["reference"], gains[0], gains[1])


def sums_outside(mature: Tensor, premature: Tensor, log_z: Tensor, inside: Tensor) -> Tensor:
    """Sums over the vocabulary that SLED's cosines are made of (`methods.sled`): float32 [4, K, R], summed in float64.

    With q the layer's probabilities and d its logits minus the mature ones: sums of q, q^2 and q d over the tokens that are not
    `inside`, and of d^2 over all.

    Args:
        mature: Mature logits [R, V] that the kernels accept (`compares`).
        premature: Layers' logits [K, R, V], of the same dtype.
        log_z: Their log sum exp, float32 [K, R].
        inside: bool [R, V].
    """
    rows = premature.reshape(-1, premature.shape[-1])
    found = torch.empty(4, *log_z.shape, dtype=torch.float64, device="cpu")
    log_z, inside = log_z.to(torch.float32).contiguous(), inside.contiguous()
    library().dola_outside(
        DTYPES[mature.dtype], *(tensor.data_ptr() for tensor in (mature, rows, log_z, inside, found)),
        mature.stride(0), rows.stride(0), mature.shape[-1], len(mature), len(rows), torch.get_num_threads(),
    )  # fmt: skip
    return found.float()  # vLLM's workers exchange no float64
