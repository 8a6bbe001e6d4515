"""Compiles the kernels with the machine's C compiler when they are first needed, and loads them."""

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
from contextlib import suppress
from pathlib import Path

from dola.errors import ModelFileError
from dola.files.cache_folder import cache_folder
from dola.files.whole_file import sync

logger = logging.getLogger("dola")

SOURCES = tuple(Path(__file__).with_name(name) for name in ("vector.h", "head.c", "rows.c"))
FLAGS = ("-O2", "-ftree-vectorize", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-fPIC")


class UnavailableError(Exception):
    """The kernels cannot be built or loaded on this machine; the message says why."""


@functools.cache
def why_not() -> str | None:
    """Why the kernels are not in use here, or None if they are; they have then been compiled."""
    if os.environ.get("DOLA_NATIVE") == "0":
        return "DOLA_NATIVE=0"
    try:
        library()
    except UnavailableError as problem:
        logger.info("the compiled kernels are not in use: %s", problem)
        return str(problem)
    return None


@functools.cache
def library() -> ctypes.CDLL:
    """The loaded kernels.

    Raises:
        UnavailableError: They cannot be built or loaded here.
    """
    if platform.system() != "Linux":
        raise UnavailableError(f"they are for Linux, and this is {platform.system()}")
    path = _compiled(_openmp())
    try:
        loaded = ctypes.CDLL(str(path))
        _declare(loaded)
    except (OSError, AttributeError) as error:  # damaged, or another file
        with suppress(OSError):
            path.unlink()  # the next process compiles it again
        raise UnavailableError(f"{path} cannot be loaded: {error}") from error
    return loaded


def _declare(library: ctypes.CDLL) -> None:
    """Declare the types of the library's functions."""
    pointer, long = ctypes.c_void_p, ctypes.c_long
    types = {
        "head": [*[pointer] * 5, long, long, long],
        "log_z": [pointer, pointer, long, long, long],
        "contenders": [*[pointer] * 8, long, long, long, long, long, long],
        "jsd": [*[pointer] * 8, long, long, long, long, long, long],
        "count": [*[pointer] * 4, ctypes.c_int, ctypes.c_float, long, long, long],
        "place": [*[pointer] * 7, long, long, long],
        "compare": [*[pointer] * 8, *[long] * 6],
        "outside": [*[pointer] * 5, long, long, long, long, long],
        "entropy": [pointer, pointer, long, long, long],
    }
    for name, arguments in types.items():
        function = getattr(library, f"dola_{name}")
        function.argtypes = [ctypes.c_int, *arguments, ctypes.c_int]  # first the dtype, last the number of threads
        function.restype = None if name in ("log_z", "place", "outside") else ctypes.c_int


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
    key = hashlib.sha256(
        b"\0".join(
            (*(source.read_bytes() for source in SOURCES), " ".join(FLAGS).encode(), version, bytes(openmp), _processor())
        )
    )
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
            objects, linked = [], Path(folder, "kernels.so")
            for source in SOURCES:
                if source.suffix == ".c":
                    objects.append(str(Path(folder, source.name).with_suffix(".o")))
                    _run(compiler, *FLAGS, "-c", str(source), "-o", objects[-1])
            _run(compiler, "-shared", *objects, str(openmp), "-lm", "-o", str(linked))
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
