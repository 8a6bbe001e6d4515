"""A small server with OpenAI's interface for chats and completions, whose replies a test decides."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class JudgeServer(HTTPServer):
    """Answers with `says(prompt)`: a text, or a status to refuse with.

    Attributes:
        requests: (path, Authorization, body) of each request.
        says: Decides a reply.
        chats: Whether it has /chat/completions.
    """

    def __init__(self, says: Callable[[str], str | int], *, chats: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []
        self.says, self.chats = says, chats

    @property
    def url(self) -> str:
        """The base address."""
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        """What was asked."""
        return [prompt_of(body) for _, _, body in self.requests]


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        chat = self.path.endswith("/chat/completions")
        found = self.server.says(prompt_of(body)) if self.server.chats or not chat else 404
        choice = {"message": {"role": "assistant", "content": found}} if chat else {"text": found}
        refused = {"error": f"refused, with your key {self.headers['Authorization']}"}
        content = json.dumps(refused if isinstance(found, int) else {"choices": [choice]}).encode()
        self.send_response(found if isinstance(found, int) else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments: Any) -> None:
        pass


def prompt_of(body: dict[str, Any]) -> str:
    """The prompt of a request."""
    return str(body["messages"][0]["content"] if "messages" in body else body["prompt"])


@contextmanager
def judge_server(says: Callable[[str], str | int], *, chats: bool = True) -> Iterator[JudgeServer]:
    """Run a server inside."""
    with JudgeServer(says, chats=chats) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
