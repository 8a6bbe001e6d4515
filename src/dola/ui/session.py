"""The work behind the page: answers that are traced while they come, traces that are opened and kept.

People share the models and nothing else. Decoding is call-scoped (`live_trace.follow`), so requests at the same time, whatever
their layers, do not see each other.
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
"""Between two views for one way of decoding. Nothing waits for a browser, and one that draws every token falls behind. What
comes sooner is seen with what comes next, which at such a pace is soon."""
GROWTH = 1.25
"""How many times as many tokens a trace has to have to be sent again: all sendings together are then a few times the last."""
LARGEST_FILE = 64 * 2**20
"""Bytes of a trace file that the page opens, at most."""


class Session:
    """What one server does for everybody who opens its page.

    Args:
        models: The models, shared by all.
        limits: What one request may take.
    """

    def __init__(self, models: Models, limits: Limits) -> None:
        self.models, self.limits = models, limits
        self._stops: dict[str, threading.Event] = {}

    def answer(self, request: Request, who: str) -> Iterator[View]:
        """Decode a request both ways, and show what there is whenever there is more.

        Nothing is raised for a request that cannot be answered: the last view says what went wrong.

        Args:
            request: The form.
            who: A page that is open somewhere. It has one request at a time: a new one stops what it had.
        """
        self.stop(who)
        stop = self._stops[who] = threading.Event()
        view = View(status="Starting.", running=True)
        try:
            request.check(self.limits)
            if not self.models.has(request.model):
                yield View(status=f"Loading {request.model}: the first time this takes a while.", running=True)
            for view in self._decode(request, stop):
                yield view
        except DolaError as error:
            yield view.failed(error.message, error.hint)
        except Exception as error:
            logger.exception("a request of the page failed")
            what = f"{type(error).__name__}: {error}"
            yield view.failed(f"This failed, and should not have: {what}", "the terminal has the details")
        finally:
            stop.set()
            if self._stops.get(who) is stop:
                del self._stops[who]

    def stop(self, who: str) -> None:
        """End what a page has running, if anything, behind the token that it is at."""
        if (stop := self._stops.get(who)) is not None:
            stop.set()

    def stop_all(self) -> None:
        """End everything, so that the server can."""
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
        """Show the traces of a file that somebody has saved, called `name`; or say why not."""
        try:
            if path.stat().st_size > LARGEST_FILE:
                return View().failed(f"{name} is larger than {LARGEST_FILE >> 20} MiB.", "open it with dola trace --open")
            traces = read_traces(path, name)
        except DolaError as error:
            return View().failed(error.message, error.hint)
        if len(traces) > len(WAYS):
            return View().failed(f"{name} holds {len(traces)} traces; two fit side by side.", "keep two of its lines")
        by_way = {trace.mode: trace for trace in traces}
        shown = [_answer(by_way.get(way)) for way in WAYS]
        status = f"Opened {name}: {'; '.join(trace.title for trace in traces)}."
        return View(status=status, answers=(shown[0], shown[1]), traces=tuple(traces))


def _answer(trace: LayerTrace | None) -> Answer:
    """What can be said of an answer whose model is not here: the texts of its tokens."""
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
