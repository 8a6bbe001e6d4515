"""Kill the writer of each kind of file at random points, and read what it left.

python tests/killed_writers.py [KILLS] [SEED]      # prints the rows of docs/faults.md

Each writer runs in a process of its own and writes without end. SIGKILL ends it after a random time, often within a write.
What is left must be a complete file, or one that its reader recovers: the same content as some write of the writer.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from dola.files.json_lines import JsonLines, append, open_to_append
from dola.files.json_text import dumps, loads
from dola.files.whole_file import write_whole
from dola.lens import file as lens_file
from dola.native import build

SCHEMA = "dola.killed/1"
LONG = 200_000
"""Characters of a whole file: enough that its writing takes a while."""


def write_texts(path: Path) -> None:
    """Settings, traces, pages, reports: all go through `write_whole`."""
    for number in count():
        write_whole(path, str(number % 10) * LONG)


def read_texts(path: Path) -> str:
    """Complete if it is one write's content, all of it."""
    text = path.read_text("utf-8")
    return "complete" if len(text) == LONG and len(set(text)) == 1 else "corrupt"


def write_plainly(path: Path) -> None:
    """What the product does not do. The harness must notice it."""
    for number in count():
        path.write_text(str(number % 10) * LONG, "utf-8")


def write_lines(path: Path) -> None:
    """Results and answers: lines that are appended after a cut line is dropped."""
    there = JsonLines(path, SCHEMA)
    with open_to_append(path) as file:
        there.drop_cut_line(file)
        for number in count(len(there.lines)):
            append(file, [dumps({"item": number, "found": str(number % 10) * 20_000}) + "\n"])


def read_lines(path: Path) -> str:
    """Complete lines, numbered without a gap; a cut line is recovered from."""
    there = JsonLines(path, SCHEMA)
    for number, line in enumerate(there.lines):
        if loads(line) != {"item": number, "found": str(number % 10) * 20_000}:
            return "corrupt"
    return "complete" if path.read_bytes().endswith(b"\n") or not path.stat().st_size else "recovered: a cut line dropped"


def write_lenses(path: Path) -> None:
    """Lenses and partial lenses."""
    for number in count():
        lens_file.write(path, {"map": torch.full((200_000,), float(number))}, {"number": number})


def read_lenses(path: Path) -> str:
    """Complete if its tensor belongs to its facts."""
    tensors, facts, _ = lens_file.read(path)
    return "complete" if bool((tensors["map"] == facts["number"]).all()) else "corrupt"


def write_kernels(path: Path) -> None:
    """Compiled kernels: sealed beside the cache's file, then renamed to it."""
    for number in count():
        linked = path.with_suffix(".linked")
        linked.write_bytes(bytes([number % 256]) * LONG)
        build._seal(linked)
        linked.replace(path)


def read_kernels(path: Path) -> str:
    """Complete if its seal is right."""
    return "complete" if build._is_sealed(path) else "corrupt"


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], str]]] = {
    "settings, traces, pages, reports (`write_whole`)": (write_texts, read_texts),
    "results and answers (JSON lines)": (write_lines, read_lines),
    "lenses and partial lenses": (write_lenses, read_lenses),
    "compiled kernels": (write_kernels, read_kernels),
}

CONTROL = (write_plainly, read_texts)


def killed(write: Callable[[Path], None], read: Callable[[Path], str], path: Path, kills: int, seed: int) -> Counter[str]:
    """How often each state was found after a kill. The next writer continues on what the last one left."""
    draw, found = random.Random(seed), Counter[str]()
    for _ in range(kills):
        child = os.fork()
        if not child:
            try:
                write(path)
            finally:  # a writer never returns: an error ends its process without the parent's clean-up
                os._exit(1)
        time.sleep(draw.uniform(0, 0.04))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            found["the writer failed"] += 1
        elif path.exists():
            found[read(path)] += 1
        else:
            found["no file yet"] += 1
        if path.exists() and path.suffix == ".lines" and path.stat().st_size > 5_000_000:
            path.unlink()
    return found


def main() -> None:
    """Print a row for each kind."""
    kills, seed = map(int, (*sys.argv[1:3], *("200", "0")[len(sys.argv[1:3]) :]))
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, (write, read)) in enumerate({**KINDS, "control: `Path.write_text`": CONTROL}.items()):
            path = Path(folder, f"{number}{'.lines' if write is write_lines else '.file'}")
            found = killed(write, read, path, kills, seed + number)
            print(f"| {name} | SIGKILL, {kills} times | {', '.join(f'{state}: {n}' for state, n in sorted(found.items()))} |")


if __name__ == "__main__":
    main()
