"""The compiled kernels (kernels.c), on Linux CPUs: the LM head for a few rows in one read of its weights, and divergences.

They are compiled with the machine's own C compiler when they are first needed (some seconds, once: dola's cache folder keeps
the library) and share torch's OpenMP threads. If they are not available, torch does the work: the same scores, more slowly.
`why_not` says what is missing, and DOLA_NATIVE=0 turns them off.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

import torch
from torch import Tensor, nn

from dola.errors import ModelFileError
from dola.files.cache_folder import cache_folder
from dola.files.whole_file import sync

logger = logging.getLogger("dola")

SOURCE = Path(__file__).with_name("kernels.c")
FLAGS = ("-O2", "-ftree-vectorize", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC")
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
MULTIPLE = 32
"""The hidden size must be a multiple of this."""


DIVERGENCES = frozenset({"jsd", "reference"})
"""Divergences that the kernels support; torch computes any other."""


class UnavailableError(Exception):
    """The kernels cannot be built or loaded on this machine; the message says why."""


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


def head_product(weight: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """`rows @ weight.T` and its normalizers.

    Args:
        weight: [V, d], of a head that `suits`.
        rows: [R, d], of the same dtype.

    Returns:
        Logits [R, V] in that dtype, and log sum exp of each row of them, float32 [R].
    """
    rows = rows.contiguous()
    logits = rows.new_empty(len(rows), len(weight))
    log_z = torch.empty(len(rows), dtype=torch.float32, device="cpu")
    failed = _library().dola_head(
        DTYPES[weight.dtype], *(tensor.data_ptr() for tensor in (weight, rows, logits, log_z)),
        *weight.shape, len(rows), torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory for the normalizers of {len(rows)} rows")
    return logits, log_z


def jsd_less_ln2(logits: Tensor, log_z: Tensor) -> Tensor:
    """Jensen-Shannon divergence of the candidates from the mature layer, minus ln 2: float32 [K], in [-ln 2, 0] nats.

    Args:
        logits: [K+1, V], mature first, as `head_product` returns them; rows need not be adjacent.
        log_z: Their log sum exp, float32 [K+1].
    """
    candidates = len(logits) - 1
    divergence, log_z = torch.empty(candidates, dtype=torch.float32, device="cpu"), log_z.contiguous()
    failed = _library().dola_jsd(
        DTYPES[logits.dtype], *(tensor.data_ptr() for tensor in (logits, log_z, divergence)),
        logits.stride(0), logits.shape[1], candidates, torch.get_num_threads(),
    )  # fmt: skip
    if failed:
        raise MemoryError(f"no memory for the divergences of {candidates} candidates")
    return divergence


def log_z(logits: Tensor) -> Tensor:
    """log sum exp of logits [..., V], in float32 or better: [...]. torch computes it if the kernels do not accept them."""
    if not reads(logits):
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).logsumexp(dim=-1)
    rows = logits.reshape(-1, logits.shape[-1])
    found = torch.empty(len(rows), dtype=torch.float32, device="cpu")
    _library().dola_log_z(
        DTYPES[rows.dtype], rows.data_ptr(), found.data_ptr(), rows.stride(0), rows.shape[1], len(rows), torch.get_num_threads()
    )
    return found.view(logits.shape[:-1])


def entropy(logits: Tensor) -> Tensor:
    """Entropies in nats of softmax of logits [..., V] that the kernels accept (`reads`), in one read of them: float32 [...]."""
    rows = logits.reshape(-1, logits.shape[-1])
    found = torch.empty(len(rows), dtype=torch.float32, device="cpu")
    failed = _library().dola_entropy(
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
    failed = _library().dola_compare(
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
    _library().dola_outside(
        DTYPES[mature.dtype], *(tensor.data_ptr() for tensor in (mature, rows, log_z, inside, found)),
        mature.stride(0), rows.stride(0), mature.shape[-1], len(mature), len(rows), torch.get_num_threads(),
    )  # fmt: skip
    return found.float()  # vLLM's workers exchange no float64


@functools.cache
def why_not() -> str | None:
    """Why the kernels are not in use here, or None if they are; they have then been compiled."""
    if os.environ.get("DOLA_NATIVE") == "0":
        return "DOLA_NATIVE=0"
    try:
        _library()
    except UnavailableError as problem:
        logger.info("the compiled kernels are not in use: %s", problem)
        return str(problem)
    return None


@functools.cache
def _library() -> ctypes.CDLL:
    if platform.system() != "Linux":
        raise UnavailableError(f"they are for Linux, and this is {platform.system()}")
    path = _compiled(_openmp())
    try:
        library = ctypes.CDLL(str(path))
        _declare(library)
    except (OSError, AttributeError) as error:  # damaged, or another file
        with suppress(OSError):
            path.unlink()  # the next process compiles it again
        raise UnavailableError(f"{path} cannot be loaded: {error}") from error
    return library


def _declare(library: ctypes.CDLL) -> None:
    """Declare the types of the library's functions."""
    pointer, long = ctypes.c_void_p, ctypes.c_long
    library.dola_head.argtypes = [ctypes.c_int, pointer, pointer, pointer, pointer, long, long, long, ctypes.c_int]
    library.dola_jsd.argtypes = [ctypes.c_int, pointer, pointer, pointer, long, long, long, ctypes.c_int]
    library.dola_log_z.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, ctypes.c_int]
    library.dola_compare.argtypes = [ctypes.c_int, *[pointer] * 8, *[long] * 6, ctypes.c_int]
    library.dola_outside.argtypes = [ctypes.c_int, *[pointer] * 5, long, long, long, long, long, ctypes.c_int]
    library.dola_entropy.argtypes = [ctypes.c_int, pointer, pointer, long, long, long, ctypes.c_int]
    library.dola_log_z.restype = library.dola_outside.restype = None


def _openmp() -> Path:
    """The OpenMP runtime that torch has loaded. A second one would compete with it for the cores."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[-1]
        if "libgomp" in Path(path).name:
            return Path(path)
    raise UnavailableError("torch does not use libgomp here")


def _compiled(openmp: Path) -> Path:
    """The kernels' shared library, compiled for this processor, compiler and OpenMP unless the cache has it."""
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        raise UnavailableError("no C compiler found (cc, gcc, or $CC)")
    version = subprocess.run([compiler, "--version"], capture_output=True, check=False).stdout
    key = hashlib.sha256(b"\0".join((SOURCE.read_bytes(), " ".join(FLAGS).encode(), version, bytes(openmp), _processor())))
    try:
        target = cache_folder() / "native" / f"kernels-{key.hexdigest()[:16]}.so"
    except ModelFileError as error:
        raise UnavailableError(error.message) from error
    if _is_sealed(target):
        return target
    start = time.perf_counter()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            compiled, linked = Path(folder, "kernels.o"), Path(folder, "kernels.so")
            _run(compiler, *FLAGS, "-c", str(SOURCE), "-o", str(compiled))
            _run(compiler, "-shared", str(compiled), str(openmp), "-lm", "-o", str(linked))
            _seal(linked)
            linked.replace(target)
    except OSError as error:
        raise UnavailableError(f"they cannot be saved in {target.parent}: {error}") from error
    logger.info("compiled the kernels for this processor in %.1f s: %s", time.perf_counter() - start, target)
    return target


def _seal(library: Path) -> None:
    """Append the SHA-256 of a library, which loaders ignore. A library that is cut off would kill the process that loads it."""
    with library.open("r+b") as file:
        digest = hashlib.sha256(file.read()).digest()
        file.write(digest)
        file.flush()
        sync(file.fileno())


def _is_sealed(library: Path) -> bool:
    """Whether a library exists and ends in the SHA-256 of the rest."""
    try:
        content = library.read_bytes()
    except OSError:
        return False
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UnavailableError(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no message'])[0]}")


def _processor() -> bytes:
    """The properties of the processor that -march=native depends on."""
    flags = [
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith(("flags", "Features", "model name"))
    ]
    return "\n".join(sorted(set(flags))).encode()
