"""`dola serve` as a process, and requests to it."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import command
import psutil


class Server:
    """A server process, and requests to it."""

    def __init__(self, folder: Path, log: Path, *arguments: str, **variables: str) -> None:
        with socket.socket() as free:
            free.bind(("localhost", 0))
            self.port = free.getsockname()[1]
        given = ["serve", str(folder), "--port", str(self.port), "--served-model-name", "m", "--dtype", "float32"]
        given += ["--enforce-eager", "--max-model-len", "128", "--max-num-seqs", "16", *arguments]
        self.log = log
        env = command.environment(VLLM_ENABLE_V1_MULTIPROCESSING="1", **variables)
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [*command.COMMAND, *given], stdout=file, stderr=file, env=env, start_new_session=True
            )
        deadline = time.monotonic() + 400
        while self.get("/health") != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the server did not start:\n{log.read_text()[-4000:]}")
            time.sleep(0.5)

    def get(self, path: str) -> int:
        try:
            connection = http.client.HTTPConnection("localhost", self.port, timeout=60)
            connection.request("GET", path, headers={"Connection": "close"})
            with connection.getresponse() as response:
                response.read()
                return response.status
        except OSError:
            return 0

    def text(self, path: str) -> str:
        connection = http.client.HTTPConnection("localhost", self.port, timeout=60)
        connection.request("GET", path, headers={"Connection": "close"})
        with connection.getresponse() as response:
            return response.read().decode()

    def post(self, path: str = "/v1/completions", **body: Any) -> tuple[int, Any]:
        with self.open(path, **body) as response:
            return response.status, json.loads(response.read())

    def open(self, path: str = "/v1/completions", **body: Any) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("localhost", self.port, timeout=120)
        given = {"model": "m", "temperature": 0, "max_tokens": 16, "return_token_ids": True, **body}
        connection.request("POST", path, json.dumps(given), {"Content-Type": "application/json", "Connection": "close"})
        return connection.getresponse()

    def tokens(self, prompt: str, layers: Any = None, **body: Any) -> list[int]:
        extra = {} if layers is None else {"vllm_xargs": {"dola_layers": layers}}
        status, answer = self.post(prompt=prompt, **extra, **body)
        assert status == 200, answer
        return answer["choices"][0]["token_ids"]

    def memory(self) -> int:
        """Bytes of the server and all its processes."""
        root = psutil.Process(self.process.pid)
        return sum(process.memory_info().rss for process in (root, *root.children(recursive=True)))

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
