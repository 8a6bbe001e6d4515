"""Serves the page, by default only on this machine, and so that a browser fetches nothing from any other host."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from dola.errors import MissingExtraError, UsageError
from dola.installed.hints import install_line

if TYPE_CHECKING:
    from dola.ui.session import Session

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob:; worker-src 'self' blob:"
)
"""Content security policy: a browser sends requests only to this server. (Gradio evaluates templates.)"""

LOOPBACK = ("127.0.0.1", "::1", "localhost")
"""Addresses that only programs of this machine reach."""


def check_extra() -> None:
    """Raise MissingExtraError if the page's packages are not installed."""
    missing = [name for name in ("gradio", "uvicorn") if find_spec(name) is None]
    if missing:
        raise MissingExtraError(
            f"The page needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed.",
            hint=install_line("ui"),
        )


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens on the address; port 0 means any free port.

    Raises:
        UsageError: The port is taken or not allowed, or the host is not this machine.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError:
        raise UsageError(f"--host {host!r} is not an address.", hint="--host 127.0.0.1 for this machine only") from None
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(address)
        listening.listen()
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"Port {port} of {host} is taken.", hint="--port 0 for any free port") from None
        raise UsageError(f"--host {host} --port {port}: {error.strerror}.", hint="--host 127.0.0.1 --port 7860") from None
    return listening


def url(listening: socket.socket) -> str:
    """The address of a listening socket for a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def called_so(header: str | None, hosts: Sequence[str] | None) -> bool:
    """Whether a request's Host header names one of `hosts`, with any port. None allows every name.

    A web site can point its own name at 127.0.0.1 and then read the page of whoever visits it; its requests name that site.
    """
    if hosts is None:
        return True
    try:
        return urlsplit(f"//{header or ''}").hostname in hosts
    except ValueError:  # half an IPv6 address
        return False


def application(
    session: Session, *, model: str, models: Sequence[str], choose: bool = True, hosts: Sequence[str] | None = None
) -> Any:
    """The page as an ASGI application, for `serve` and tests.

    Args:
        session: The session that does its work.
        model: The initially selected model.
        models: Models to choose from.
        choose: Whether users may name any other model.
        hosts: The names that requests may call this server by: `LOOPBACK` for a page of this machine. None allows all.
    """
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.responses import HTMLResponse, PlainTextResponse

    from dola.ui import page
    from dola.ui.session import LARGEST_FILE

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/layers")  # type: ignore[untyped-decorator]
    def layers() -> HTMLResponse:
        return HTMLResponse(page.empty_layers())

    @app.middleware("http")  # type: ignore[untyped-decorator]
    async def keep_here(request: Any, call_next: Any) -> Any:
        if not called_so(request.headers.get("host"), hosts):
            return PlainTextResponse(f"This page is at {' or '.join(hosts or ())}; the request named another host.", 421)
        response = await call_next(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Referrer-Policy", "no-referrer")
        return response

    blocks = page.build(session, model=model, models=models, choose=choose)
    return gr.mount_gradio_app(
        app, blocks, path="", theme=page.theme(), css=page.style(), ssr_mode=False, footer_links=[],
        max_file_size=LARGEST_FILE, run_history=False, show_error=True,
    )  # fmt: skip


def serve(app: Any, listening: socket.socket, *, session: Session, ready: Callable[[], None] = lambda: None) -> None:
    """Serve until Ctrl-C, then stop running work.

    Args:
        app: The application from `application`.
        listening: The socket from `bind`.
        session: The session to stop at the end.
        ready: Called when the page can be opened.
    """
    import uvicorn

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            ready()

        def handle_exit(self, sig: int, frame: Any) -> None:
            session.stop_all()
            super().handle_exit(sig, frame)

    settings = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=2)
    with suppress(KeyboardInterrupt):  # uvicorn raises the signal again when it is done
        Server(settings).run(sockets=[listening])
