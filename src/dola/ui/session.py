"""The work of the page: answers that are traced as they are generated, and traces that users open and save.

Users share only the models. Each decoding call has its own state (`tracing.live.follow`), so concurrent requests do not affect
each other, whatever their layers.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from dola.errors import DolaError
from dola.text.encoding import Encoder
from dola.tracing.data import LayerTrace
from dola.tracing.live import Progress, follow
from dola.tracing.trace_file import read_traces
from dola.ui.models import Models
from dola.ui.request import Limits, Request
from dola.ui.view import WAYS, Answer, View, answers

logger = logging.getLogger("dola")

VIEW_SECONDS = 0.2
"""Minimum seconds between two views for one way of decoding. Decoding does not wait for the browser, which cannot draw every
token in time. Tokens that arrive sooner are shown with the next view."""
GROWTH = 1.25
"""A trace is sent again when its number of tokens has grown by this factor: all transfers together are a few times the last."""
LARGEST_FILE = 64 * 2**20
"""Maximum size in bytes of a trace file that the page opens."""


class Session:
    """The work of one server for all users of its page.

    Args:
        models: The models, shared by all users.
        limits: Limits of one request.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self._stops: dict[str, threading.Event] = {}

    def answer(self, request: Request, who: str) -> Iterator[View]:
        """Decode a request both ways, and yield a view whenever there is progress.

        A request that cannot be answered does not raise: the last view shows the error.

        Args:
            request: The form.
            who: An open page. It has one request at a time: a new one stops the previous one.
        """
        self.stop(who)
        stop = self._stops[who] = threading.Event()
        view = View(status="Starting.", running=True)
        try:
            request.check(self.limits)
            view = dataclasses.replace(view, method=request.config().label())
            if not self.models.has(request.model):
                loading = f"Loading {request.model}: the first time this takes a while."
                yield dataclasses.replace(view, status=loading)
            for step in self._decode(request, stop):
                view = dataclasses.replace(step, method=view.method)
                yield view
        except DolaError as error:
            yield view.failed(error.message, error.hint)
        except Exception as error:
            logger.exception("a request of the page failed")
            what = f"{type(error).__name__}: {error}"
            yield view.failed(f"An unexpected error occurred: {what}", "the terminal has the details")
        finally:
            stop.set()
            if self._stops.get(who) is stop:
                del self._stops[who]

    def stop(self, who: str) -> None:
        """Stop a page's running request, if any, after the current token."""
        if (stop := self._stops.get(who)) is not None:
            stop.set()

    def stop_all(self) -> None:
        """Stop everything, so that the server can end."""
        for stop in list(self._stops.values()):
            stop.set()

    def _decode(self, request: Request, stop: threading.Event) -> Iterator[View]:
        model, tokenizer = self.models.get(request.model)
        prompt = request.tokens(Encoder.of(model, tokenizer), self.limits)
        newest: dict[str, Progress] = {}
        traces: tuple[LayerTrace, ...] = ()
        begun = time.monotonic()
        due: dict[str, float] = {}
        settings = {"generate": request.new_tokens, "repetition_penalty": request.repetition_penalty}
        steps = follow(model, tokenizer, prompt, request.config(), decode=WAYS, stop=stop, **settings)  # type: ignore[arg-type]
        with closing(steps):
            for step in steps:
                newest[step.decode] = step
                ways = [newest.get(way) for way in WAYS]
                running = not all(way is not None and way.done for way in ways)
                now = time.monotonic()
                if running and now < due.get(step.decode, 0):
                    continue
                due[step.decode] = now + VIEW_SECONDS
                read = [way.trace for way in ways if way is not None and way.trace is not None]
                if not running or _length(read) >= GROWTH * _length(traces):
                    traces = tuple(dataclasses.replace(trace, model=request.model) for trace in read)
                status = _status(ways, traces, running, stop.is_set(), now - begun)
                yield View(status=status, answers=answers(tokenizer, ways), traces=traces, running=running)

    def open(self, path: Path, name: str) -> View:
        """Show the traces of a saved file called `name`, or an error."""
        try:
            if path.stat().st_size > LARGEST_FILE:
                return View().failed(f"{name} is larger than {LARGEST_FILE >> 20} MiB.", "open it with dola trace --open")
            traces = read_traces(path, name)
        except DolaError as error:
            return View().failed(error.message, error.hint)
        if len(traces) > len(WAYS):
            return View().failed(f"{name} holds {len(traces)} traces; the page shows two side by side.", "keep two lines")
        by_way = {trace.mode: trace for trace in traces}
        shown = [_answer(by_way.get(way)) for way in WAYS]
        status = f"Opened {name}: {'; '.join(trace.title for trace in traces)}."
        return View(status=status, answers=(shown[0], shown[1]), traces=tuple(traces), method=traces[-1].method_name)


def _answer(trace: LayerTrace | None) -> Answer:
    """An answer from the texts of a trace's tokens, without its model."""
    if trace is None:
        return Answer()
    text = "".join(trace.text(token.token) for token in trace.tokens)
    return Answer(text, len(text), len(trace.tokens))


def _length(traces: Sequence[LayerTrace]) -> int:
    return sum(len(trace.tokens) for trace in traces)


def _status(ways: list[Progress | None], traces: tuple[LayerTrace, ...], running: bool, stopped: bool, seconds: float) -> str:
    counts = [0 if way is None else len(way.token_ids) for way in ways]
    tokens = f"{counts[0]} and {counts[1]} tokens"
    if not running:
        return f"{'Stopped' if stopped else 'Done'}: {tokens}, {seconds:.1f} s."
    if stopped:
        return f"Stopping: {tokens}."
    return f"Decoding: {tokens}, the layers of {_length(traces)} of them read."
