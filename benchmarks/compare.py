"""Whether a commit made decoding slower: two commits in one run, in turns, greedy decoding of both first as the noise.

    python benchmarks/compare.py BASE [--model smollm2] [--dtype bfloat16] [--batch-sizes 1,32] [--repeats 7] [--most 1.05]

BASE is a commit. The other side is this working tree. Each side runs in a process of its own that holds the model; a pair of
runs is one run of each, and the order changes from pair to pair. The exit status is 1 if DoLa became slower than `--most` times
what it was, beyond what greedy decoding shows for the same pairs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
WAYS = ("greedy", "dola")


class Side:
    """One commit's code, with a model, in a process of its own."""

    def __init__(self, source: Path, given: argparse.Namespace) -> None:
        command = [sys.executable, __file__, "--worker", given.model, given.dtype, str(given.threads), str(given.new_tokens)]
        environment = os.environ | {"PYTHONPATH": str(source)}
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def seconds(self, way: str, batch_size: int) -> float:
        """Seconds a token after the first of one generation."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([way, batch_size]) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise SystemExit("one side ended early; its error is above")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        return work(*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--batch-sizes", default="1,32")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--new-tokens", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--most", type=float, default=1.05)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        archive = subprocess.run(["git", "-C", str(HERE), "archive", given.base, "src"], capture_output=True, check=False)
        if archive.returncode:
            raise SystemExit(f"{given.base!r} is not a commit here: {archive.stderr.decode().strip()}")
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        sides = Side(Path(folder, "src"), given), Side(HERE / "src", given)
        try:
            slower = [batch for batch in map(int, given.batch_sizes.split(",")) if not compare(batch, *sides, given)]
        finally:
            for side in sides:
                side.close()
    if slower:
        raise SystemExit(f"slower than {given.most} times {given.base} at batch {', '.join(map(str, slower))}")


def compare(batch_size: int, base: Side, new: Side, given: argparse.Namespace) -> bool:
    """Print the ratios of one batch size; whether DoLa is at most `given.most` times as slow as it was."""
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for repeat in range(given.repeats + 1):  # the first is to warm up
        for way in WAYS:
            pair = [(side, side.seconds(way, batch_size)) for side in ((base, new) if repeat % 2 else (new, base))]
            if repeat:
                times[way].append((dict(pair)[base], dict(pair)[new]))
    ratios = {way: [after / before for before, after in pairs] for way, pairs in times.items()}
    for way, found in ratios.items():
        before, after = (1000 * statistics.median(each) for each in zip(*times[way], strict=True))
        spread = f"x{statistics.median(found):.3f} ({min(found):.2f} to {max(found):.2f})"
        what = "noise" if way == "greedy" else "DoLa "
        print(f"batch {batch_size}, {what}: {way:6} {before:.1f} ms before, {after:.1f} ms now, {spread}", flush=True)
    return statistics.median(ratios["dola"]) <= given.most * max(1.0, statistics.median(ratios["greedy"]))


def work(model_name: str, dtype: str, threads: str, new_tokens: str) -> None:
    """A side: read ways and batch sizes from standard input, write seconds to standard output. Uses documented names only."""
    import time
    from contextlib import nullcontext

    import torch
    from transformers import StoppingCriteria, StoppingCriteriaList

    import dola

    class Clock(StoppingCriteria):  # type: ignore[misc]
        def __call__(self, ids: torch.Tensor, scores: object, **_: object) -> torch.Tensor:
            self.times = [*getattr(self, "times", []), time.perf_counter()]
            return torch.zeros(len(ids), dtype=torch.bool)

    torch.set_num_threads(int(threads))
    model, _ = dola.load(model_name, dtype=dtype)
    generator = torch.Generator().manual_seed(0)
    for line in sys.stdin:
        way, batch_size = json.loads(line)
        ids = torch.randint(1000, 20_000, (batch_size, 64), generator=generator)
        clock = Clock()
        how = {"do_sample": False, "min_new_tokens": int(new_tokens), "max_new_tokens": int(new_tokens)}
        with torch.no_grad(), dola.attach(model, "high") if way == "dola" else nullcontext():
            model.generate(ids, attention_mask=torch.ones_like(ids), stopping_criteria=StoppingCriteriaList([clock]), **how)
        steps = [after - before for before, after in zip(clock.times, clock.times[1:], strict=False)]
        print("seconds", statistics.median(steps), flush=True)


if __name__ == "__main__":
    main()
