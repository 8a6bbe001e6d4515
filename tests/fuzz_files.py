"""Fuzz the readers of traces, lenses and GGUF headers with damaged copies of good files. Only a DolaError may come out.

python tests/fuzz_files.py SECONDS [SEED [KIND]]      # for each kind, or one; a failure prints its seed, which repeats it
"""

from __future__ import annotations

import random
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from dola.errors import DolaError
from dola.lens.lens import Lens
from dola.loading.names import check_gguf
from dola.tracing.data import LayerTrace
from dola.tracing.trace_file import read_traces

NUMBERS = (b"0", b"-1", b"1e400", b"NaN", b"null", b"[]", b"{}", b'""', b"true", b"9" * 5000, b"2.5")


def read_trace(path: Path) -> None:
    """Read a file of traces."""
    read_traces(path, "the file")


def read_lens(path: Path) -> None:
    """Read a lens, and ask for its maps."""
    lens = Lens.load(path)
    lens.check_layers(lens.layers)


def read_gguf(path: Path) -> None:
    """Read a header, and ask it everything."""
    if (header := check_gguf(path)) is not None:
        _ = header.blocks, header.is_quantized, header.parts


def gguf() -> bytes:
    """A header with a text, a list, a number, and two tensors."""

    def text(words: str) -> bytes:
        return struct.pack("<Q", len(words)) + words.encode()

    pairs = (
        text("general.architecture") + struct.pack("<I", 8) + text("llama"),
        text("split.count") + struct.pack("<IH", 2, 1),
        text("split.no") + struct.pack("<IH", 2, 0),
        text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
    )
    tensors = (text(f"blk.{n}.attn_q.weight") + struct.pack("<IQQIQ", 2, 4, 4, 0, 64 * n) for n in range(2))
    return b"GGUF" + struct.pack("<IQQ", 3, 2, len(pairs)) + b"".join(pairs) + b"".join(tensors)


def lens(folder: Path) -> bytes:
    """A lens of two layers."""
    path = folder / "good.safetensors"
    Lens("tuned", (1, 2), torch.eye(4).repeat(2, 1, 1), torch.zeros(2, 4)).save(path)
    return path.read_bytes()


def damaged(content: bytes, draw: random.Random) -> bytes:
    """A copy with some bytes changed, removed, repeated or cut off, or a JSON value replaced."""
    held = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 5))):
        place, size = draw.randrange(len(held) + 1), draw.choice((1, 1, 4, 8, 50))
        how = draw.randrange(6)
        if how == 0:
            held[place : place + size] = draw.randbytes(size)
        elif how == 1:
            del held[place : place + size]
        elif how == 2:
            held[place:place] = held[place : place + size]
        elif how == 3:
            del held[place:]
        elif how == 4:
            held[place : place + 1] = draw.choice((b"\0", b"\xff", b"\x7f", b'"', b"9", b"}"))
        elif (start := held.find(b":", place)) >= 0:
            end = min((at for mark in b",}]" if (at := held.find(mark, start)) >= 0), default=len(held))
            held[start + 1 : end] = draw.choice(NUMBERS)
    return bytes(held)


def fuzz(
    good: bytes, read: Callable[[Path], None], path: Path, seeds: Iterable[int], seconds: float = 1e9
) -> tuple[int, list[str]]:
    """How many files were read, and each failure with its seed."""
    failures, until, done = [], time.monotonic() + seconds, 0
    for seed in seeds:
        if time.monotonic() > until:
            break
        done += 1
        path.write_bytes(damaged(good, random.Random(seed)))
        try:
            read(path)
        except DolaError:
            pass
        except Exception as error:
            failures.append(f"seed {seed}: {type(error).__name__}: {error}"[:300])
    return done, failures


def kinds(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], None]]]:
    """A good file and the reader of each kind."""
    from command import tokenizer
    from families import tiny

    import dola

    trace: LayerTrace = dola.trace(tiny("llama"), tokenizer(), [5, 17, 20], generate=2)
    return {
        "traces": (trace.to_json().encode() + b"\n", read_trace),
        "lenses": (lens(folder), read_lens),
        "GGUF headers": (gguf(), read_gguf),
    }


def main() -> None:
    """Fuzz each kind, and end with 1 if there was a failure."""
    seconds, first, bad = float(sys.argv[1]), int((*sys.argv[2:3], "0")[0]), False
    with tempfile.TemporaryDirectory() as folder:
        for name, (good, read) in kinds(Path(folder)).items():
            if sys.argv[3:] not in ([], [name]):
                continue
            done, failures = fuzz(good, read, Path(folder, "fuzzed"), range(first, 10**9), seconds)
            print(f"{name}: {done} files from seed {first}, {len(failures)} failures", *failures[:10], sep="\n  ", flush=True)
            bad = bad or bool(failures)
    sys.exit(bad)


if __name__ == "__main__":
    main()
