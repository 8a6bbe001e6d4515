"""Time to the first token and of a token, by vLLM's own generator: a server without DoLa and one with it, in turns.

    python benchmarks/first_token.py FOLDER [--rounds 3] [--output FILE]

64 prompts of 64 random tokens, 32 answer tokens each, 32 requests at once; servers of one thread, float32, nothing compiled.
The server with DoLa gets requests of four kinds: off (what capturing costs), one layer, two layers, and the default, high.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from serving_load import GENERATOR

PORTS = {"plain": 8101, "dola": 8102}
METRICS = {"median_ttft_ms": "first token", "median_tpot_ms": "a token"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--few", type=int, nargs=2, default=[15, 17], help="the two layers of the requests with few")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    ways: dict[str, Any] = {"plain": None, "off": "off", "1 layer": given.few[:1], "2 layers": given.few, "high": "high"}
    found: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder, _server(given.folder, "plain"), _server(given.folder, "dola"):
        for turn in range(given.rounds + 1):  # the first is to warm up
            first = turn % len(ways)
            for way, layers in [*ways.items()][first:] + [*ways.items()][:first]:
                measured = _measure(given.folder, Path(folder), layers)
                if turn:
                    found[way].append(measured)
    print(table(found))
    if given.output:
        given.output.write_text(json.dumps({"folder": given.folder.name, "milliseconds": found}, indent=1) + "\n")


@contextmanager
def _server(folder: Path, kind: str) -> Iterator[None]:
    """A server that answers; it ends with the block."""
    settings = {"layers": "high", "capture": "all", "default": "off"}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--port", str(PORTS[kind])]
    command += ["--served-model-name", "m", "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "32"]
    command += ["--max-model-len", "256", "--gpu-memory-utilization", "0.3", "--no-enable-prefix-caching"]
    command += ["--additional-config", json.dumps({"dola": settings})] if kind == "dola" else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_LOGGING_LEVEL": "ERROR"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            while not _answers(PORTS[kind]):
                if process.poll() is not None:
                    log.seek(0)
                    raise SystemExit(log.read()[-3000:].decode(errors="replace"))
                time.sleep(1)
            yield
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _measure(model: Path, folder: Path, layers: str | Sequence[int] | None) -> dict[str, float]:
    """Medians of one run of the generator, in ms."""
    kind = "plain" if layers is None else "dola"
    arguments = ["--backend", "openai", "--port", str(PORTS[kind]), "--model", "m", "--tokenizer", str(model)]
    arguments += ["--dataset-name", "random", "--random-input-len", "64", "--random-output-len", "32", "--num-prompts", "64"]
    arguments += ["--max-concurrency", "32", "--temperature", "0", "--ignore-eos", "--disable-tqdm"]
    arguments += ["--save-result", "--result-dir", str(folder), "--result-filename", "found.json"]
    if layers is not None:
        arguments += ["--extra-body", json.dumps({"vllm_xargs": {"dola_layers": layers}})]
    done = subprocess.run([sys.executable, "-c", GENERATOR, *arguments], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found = json.loads((folder / "found.json").read_text())
    if found["completed"] != 64:
        raise SystemExit(f"{found['completed']} of 64 requests were answered: {found.get('errors')}")
    return {name: found[name] for name in METRICS}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Medians in ms, and medians of the ratios to plain vLLM in the same round, with smallest and largest, in Markdown."""
    lines = ["| | " + " | ".join(f"{name}, ms | over plain" for name in METRICS.values()) + " |", "|---" * 5 + "|"]
    for way, rounds in found.items():
        cells = []
        for name in METRICS:
            ratios = sorted(each[name] / plain[name] for each, plain in zip(rounds, found["plain"], strict=True))
            over = "" if way == "plain" else f"x{statistics.median(ratios):.3f} ({ratios[0]:.2f}-{ratios[-1]:.2f})"
            cells.append(f"{statistics.median(each[name] for each in rounds):.0f} | {over}")
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
