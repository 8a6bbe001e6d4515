"""What is done to a running server, and what must hold afterwards: right answers, no hang, no leak.

    python tests/serving/faults.py soak FOLDER --minutes 30        requests of all kinds, with the memory of the server
    python tests/serving/faults.py times FOLDER --times 10         each fault that a server survives, so many times

`test_served_faults.py` does each once.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]  # as a script

from engines import Judge  # noqa: E402
from servers import Server  # noqa: E402

PROMPTS = ["abc def", "xyz", "1 2 3 4", "the end"]
WAYS: dict[str, Any] = {"plain": "off", "high": "high", "low": "low", "list": [2, 4]}


class Known:
    """Requests whose answers are known, by the judge."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server, judge = server, Judge(folder)
        layers = {**WAYS, "plain": None}
        self.answers = {(prompt, way): judge.tokens(prompt, layers[way]) for prompt in PROMPTS for way in WAYS}

    def ask(self, key: tuple[str, str], **more: Any) -> None:
        """Send one and compare."""
        assert self.server.tokens(key[0], WAYS[key[1]], **more) == self.answers[key], key

    def ask_all(self) -> None:
        for key in self.answers:
            self.ask(key)

    def idle(self) -> None:
        """Wait until the server has ended what clients left, and see that its cache is free."""
        deadline = time.monotonic() + 60
        while any(self.metric(f"vllm:num_requests_{state}") for state in ("running", "waiting")):
            assert time.monotonic() < deadline, "the server still runs requests of clients that have gone"
            time.sleep(0.1)
        assert self.metric("vllm:kv_cache_usage_perc") == 0

    def metric(self, name: str) -> float:
        lines = [line for line in self.server.text("/metrics").splitlines() if line.startswith(f"{name}{{")]
        assert lines, name
        return sum(float(line.rpartition(" ")[2]) for line in lines)


def disconnect(known: Known, own: random.Random) -> None:
    """Close a stream in its middle."""
    with known.server.open(prompt="the end", stream=True, max_tokens=100, vllm_xargs={"dola_layers": "high"}) as stream:
        stream.read(own.randrange(1, 400))


def come_and_go(known: Known, own: random.Random) -> str:
    """What clients do, at random: connect and leave, send half a request, leave in the middle, or stay for the answer."""
    chance = own.random()
    if chance < 0.2:
        socket.create_connection(("localhost", known.server.port), timeout=60).close()
        return "connected and left"
    if chance < 0.4:
        with socket.create_connection(("localhost", known.server.port), timeout=60) as line:
            head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{"
            line.sendall(head + b"x" * own.randrange(99))
        return "sent half a request"
    if chance < 0.6:
        disconnect(known, own)
        return "left in the middle of a stream"
    known.ask(own.choice(list(known.answers)))
    return "got the right answer"


def fuzzed(own: random.Random) -> Any:
    """Random options: names that exist and do not, values of any type."""
    names = ["dola_layers", "dola_relative_top", "dola_divergence", "dola_strength", "dola_scores", "dola_final_norm"]
    names += ["dola_method", "dola_rate", "dola_lens", "dola_", "layers", "\N{SNOWMAN}", "x" * 300]
    values: list[Any] = ["high", "low", "off", "on", "2,4", "sled", "delta", "", "\0", "[]", "\U0001f600", "a" * 5000]
    values += [0, 1, -1, 3, 2**70, 0.1, -0.5, 1e308, float("inf"), float("nan"), True, None]
    values += [[], [2], [2, 4], [4, 2], [99], [2.5], ["high"], [[2]], {"a": 1}, list(range(2000))]
    return {own.choice(names): own.choice(values) for _ in range(own.randrange(1, 4))}


def fuzz(known: Known, own: random.Random) -> str:
    """Send random options: answered, or refused with a reason; nothing else."""
    given = fuzzed(own)
    status, answer = known.server.post(prompt="abc", max_tokens=3, vllm_xargs=given)
    assert status in (200, 400), (status, given, answer)
    assert status == 200 or answer["error"]["message"], given
    return str(status)


def many(known: Known, what: Any, times: int, *, clients: int, seed: int = 0) -> Counter[str]:
    """Do it so many times from so many clients, then ask for all known answers."""
    with ThreadPoolExecutor(clients) as pool:
        done = Counter(pool.map(lambda i: what(known, random.Random(seed + i)) or "done", range(times)))
    known.idle()
    known.ask_all()
    return done


def outcome(server: Server, **body: Any) -> tuple[str, Any]:
    """How a request ended whose server may die: `answered`, `refused` with its status, or `lost` with its connection."""
    try:
        status, answer = server.post(**body)
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        return "lost", type(error).__name__
    return ("answered", answer["choices"][0]["token_ids"]) if status == 200 else ("refused", status)


def soak(known: Known, minutes: float, report: Any = print) -> list[tuple[float, float]]:
    """All of it, from eight clients, until the time is over. Returns minutes and MiB of the server and its processes."""
    began, measured, done = time.monotonic(), [], Counter[str]()
    round_ = 0
    while (now := (time.monotonic() - began) / 60) < minutes:
        for what in (come_and_go, fuzz):
            done += many(known, what, 40, clients=8, seed=round_ * 1000)
        round_ += 1
        measured.append((now, known.server.memory() / 2**20))
        report(f"{now:5.1f} min  {measured[-1][1]:8.1f} MiB  {dict(done)}", flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("soak", "times"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--times", type=int, default=10)
    given = parser.parse_args()
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as logs:
        server = Server(given.folder, Path(logs, "log.txt"), "--capture", "all", "--default", "off")
        try:
            known = Known(server, given.folder)
            known.ask_all()
            if given.what == "soak":
                soak(known, given.minutes)
            else:
                for what, clients in ((disconnect, 8), (come_and_go, 200), (fuzz, 8)):
                    print(what.__name__, dict(many(known, what, given.times * 20, clients=clients)), flush=True)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
