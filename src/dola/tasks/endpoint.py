"""A server with an interface like OpenAI's: requests and answers as JSON, and what went wrong as plain text."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any

from dola.errors import InputError, JudgeError
from dola.files.json_text import loads

BUSY = (429, 502, 503, 504)
"""Statuses of a server that may answer a little later."""
PAUSES = (1.0, 4.0, 15.0)
"""Seconds to wait for a busy server before each further try."""
LONGEST = 64 * 2**20
"""Maximum size of an answer in bytes."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Makes a redirect an error. urllib would follow it with the key, to whatever host it names."""

    def redirect_request(self, *_: Any) -> None:
        """Return None, which makes urllib raise HTTPError."""


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        url: The address that was asked.
        status: The HTTP status.
        content: The body.
    """

    url: str
    status: int
    content: bytes

    def json(self) -> Any:
        """The body, which must be JSON of an accepted request.

        Raises:
            JudgeError: The request was refused, or the body is not JSON.
        """
        if self.status != 200:
            said = self.content[:200].decode(errors="replace").strip()
            if 300 <= self.status < 400:
                said = "it redirects, which is not followed, because the key would go along"
            raise JudgeError(
                f"{self.url} refused the request with status {self.status}: {said or 'no reason was given'}",
                hint="check the address (most end in /v1), the model's name and the key (OPENAI_API_KEY)",
            )
        try:
            return loads(self.content)
        except ValueError:
            raise JudgeError(f"{self.url} answered with something that is not JSON.", hint="check the address") from None


class Endpoint:
    """The base address of an interface, and the key for it.

    Args:
        base_url: For example "http://localhost:8000/v1".
        api_key: Key sent as bearer token; by default the environment variable OPENAI_API_KEY, if it is set.
        timeout: Seconds to wait for one answer.

    Raises:
        InputError: `base_url` is not a web address, or the key cannot be sent.
    """

    def __init__(self, base_url: str, *, api_key: str | None = None, timeout: float = 60.0) -> None:
        if not base_url.startswith(("http://", "https://")):
            raise InputError(f"{base_url!r} is not a web address.", hint="use one such as http://localhost:8000/v1")
        self.base = base_url.rstrip("/")
        self.api_key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()  # key files end in a line feed
        if not self.api_key.isprintable() or not self.api_key.isascii():
            raise InputError(
                "The judge's key has characters that are not allowed in an HTTP header.",
                hint="check api_key, or OPENAI_API_KEY",
            )
        self.timeout = timeout

    def ask(self, path: str, body: dict[str, Any], *, patient: bool = False) -> Answer:
        """Send one request, or several to a server that is busy if `patient` is set.

        Raises:
            JudgeError: The server did not answer.
        """
        for pause in PAUSES if patient else ():
            found = self._send(f"{self.base}{path}", body)
            if found.status not in BUSY:
                return found
            time.sleep(pause)
        return self._send(f"{self.base}{path}", body)

    def _send(self, url: str, body: dict[str, Any]) -> Answer:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {self.api_key}"} if self.api_key else {})
        try:
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            opener = urllib.request.build_opener(_NoRedirects)
            with opener.open(request, timeout=self.timeout) as response:
                content = response.read(LONGEST + 1)
            if len(content) > LONGEST:
                raise JudgeError(f"{url} answered with more than {LONGEST >> 20} MiB.", hint="check the address")
            return Answer(url, response.status, content)
        except urllib.error.HTTPError as error:
            with error:
                said = error.read(2000) or str(error.reason).encode()
            # Some servers repeat a key that they refuse.
            return Answer(url, error.code, said.replace(self.api_key.encode(), b"***") if self.api_key else said)
        except TimeoutError:
            raise JudgeError(
                f"{url} did not answer within {self.timeout:g} s.", hint="raise the timeout, or check the server"
            ) from None
        except (OSError, HTTPException, ValueError) as error:  # URLError is an OSError
            reason = getattr(error, "reason", error)
            raise JudgeError(f"{url} cannot be reached: {reason}", hint="check the address, and that the server runs") from None
