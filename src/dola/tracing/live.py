"""Traces tokens while they are generated, with greedy decoding and DoLa at the same time on one model.

    generate --each token--> its residual streams, all layers --BLOCK tokens at a time--> LayerReader --> Progress

`dola.trace` reads generated tokens in a separate forward pass. Here hooks store the states of the decoding itself. So nothing
runs twice, and a trace shows exactly the states from which the tokens were chosen. Reading a layer takes one read of the head's
weights, whether for one position or eight. So texts grow token by token, and traces block by block.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from dola.decoding.attach import as_config
from dola.errors import CaptureError
from dola.methods.config import MethodConfig
from dola.methods.names import RECOMMENDED_PENALTY
from dola.model.anatomy import Anatomy
from dola.model.hidden import captured
from dola.text.encoding import Encoder
from dola.text.token_text import token_texts
from dola.tracing.data import LayerTrace, TokenTrace
from dola.tracing.reader import LayerReader
from dola.tracing.trace import as_trace, check_arguments, check_length, tokens_behind

BLOCK = 8
"""Number of tokens whose layers are read together."""


@dataclass(frozen=True)
class Progress:
    """The progress of one way of decoding.

    Attributes:
        decode: The way: "dola" or "greedy".
        token_ids: The tokens so far.
        trace: Trace of the first tokens, None before any has been read; when `done`, of all tokens.
        done: Whether this is the last progress of this way.
    """

    decode: str
    token_ids: tuple[int, ...]
    trace: LayerTrace | None
    done: bool


def follow(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    config: MethodConfig | str | Sequence[int] | None = None,
    *,
    generate: int,
    decode: Sequence[str] = ("greedy", "dola"),
    repetition_penalty: float = RECOMMENDED_PENALTY,
    top_k: int = 5,
    anatomy: Anatomy | None = None,
    stop: threading.Event | None = None,
) -> Generator[Progress, None, None]:
    """Decode in several ways at once. Yields progress for every token, and a longer trace every few tokens.

    The last trace of a way has the same tokens, layers and choices as `dola.trace(..., generate=...)` with these arguments, and
    the same numbers up to rounding. Other arguments of `generate` are not supported: a step is one forward pass and one token.

    Args:
        model, tokenizer, config, generate, repetition_penalty, top_k, anatomy: See `dola.trace`.
        prompt: The tokens of the prompt.
        decode: The ways of decoding.
        stop: When set, all ways end after their current token. Closing the iterator has the same effect.

    Raises:
        InputError, AttachError, LayersError, ReadoutError: See `dola.trace`; raised at the first step of the iteration.
    """
    anatomy = Anatomy.of(model) if anatomy is None else anatomy
    config = as_config(config, anatomy)
    for name in decode:
        check_arguments(anatomy.lm, generate, name, top_k, {})
    prompt = Encoder.of(model, tokenizer).checked(prompt)
    check_length(anatomy.lm, prompt, generate)
    stop = threading.Event() if stop is None else stop
    events: SimpleQueue[Progress | Exception] = SimpleQueue()
    call = {"max_new_tokens": generate, "repetition_penalty": repetition_penalty}
    reader = LayerReader(anatomy, config, top_k)
    ways = [_Way(model, tokenizer, prompt, name, reader, call, events, stop) for name in decode]
    with ThreadPoolExecutor(2 * len(ways), thread_name_prefix="dola-live") as pool:
        try:
            for way in ways:
                pool.submit(way.generate)
                pool.submit(way.read)
            left = len(ways)
            while left:
                event = events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                left -= event.done
        finally:
            stop.set()  # the iterator was closed, and the pool waits for its threads


@dataclass(frozen=True)
class _Made:
    """A token and the residual streams that it was chosen from: layer -> [1, d], for layers 0 to N."""

    token: int
    states: dict[int, Tensor]


class _Way:
    """One way of decoding: a thread that generates, and a thread that reads the queue of the first one."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        prompt: Sequence[int],
        decode: str,
        reader: LayerReader,
        call: dict[str, Any],
        events: SimpleQueue[Progress | Exception],
        stop: threading.Event,
    ) -> None:
        self._model, self._tokenizer, self._prompt, self._decode = model, tokenizer, list(prompt), decode
        self._reader, self._call, self._events, self._stop = reader, call, events, stop
        self._made: SimpleQueue[_Made | None] = SimpleQueue()
        self._hidden: dict[int, Tensor] = {}
        self._tokens: list[int] = []
        self._trace: LayerTrace | None = None
        self._started = False

    def generate(self) -> None:
        """Generate, and queue a `_Made` for each token, then None."""
        anatomy, config = self._reader.anatomy, self._reader.config
        try:
            with captured(anatomy, range(anatomy.num_layers), lambda states: states[:, -1]) as self._hidden:
                tokens_behind(
                    self._model,
                    self._tokenizer,
                    self._prompt,
                    config if self._decode == "dola" else None,
                    **self._call,
                    streamer=self,
                    stopping_criteria=[self._stops],
                    disable_compile=True,  # compiled code does not notice added or removed hooks
                )
        except Exception as error:
            self._stop.set()
            self._events.put(error)
        finally:
            self._made.put(None)

    def put(self, value: Tensor) -> None:
        """Required of a streamer: `generate` calls it with the prompt, and then with each token."""
        if not self._started:
            self._started = True
            return
        states = dict(self._hidden)
        self._hidden.clear()
        if len(states) <= self._reader.anatomy.num_layers:
            raise CaptureError(
                f"Only {len(states)} of {self._reader.anatomy.num_layers + 1} layers ran for token {len(self._tokens)}.",
                hint="modes that run fewer blocks cannot be traced; otherwise please report the model",
            )
        self._tokens.append(int(value))
        self._made.put(_Made(self._tokens[-1], states))
        self._events.put(self._progress())

    def end(self) -> None:
        """Required of a streamer; `generate` here already signals the end."""

    def read(self) -> None:
        """Read the queue of `generate`, block by block."""
        found: list[TokenTrace] = []
        texts: dict[int, str] = {}
        before = [*self._prompt[-1:]]
        try:
            for block in self._blocks():
                after = [made.token for made in block]
                first = len(self._prompt) - 1 + len(found)
                read = self._reader.read_states(_joined(block), range(first, first + len(block)), [*before, *after[:-1]], after)
                found, before = found + read, after[-1:]
                texts |= token_texts(self._tokenizer, set().union(*(token.ids() for token in read)) - texts.keys())
                self._trace = as_trace(
                    self._reader,
                    found,
                    dict(sorted(texts.items())),
                    prompt=self._tokenizer.decode(self._prompt),
                    prompt_tokens=len(self._prompt),
                    mode=self._decode,
                    repetition_penalty=self._call["repetition_penalty"],
                    model=self._reader.anatomy.lm.config.name_or_path,
                )
                self._events.put(self._progress())
            self._events.put(self._progress(done=True))
        except Exception as error:
            self._stop.set()
            self._events.put(error)

    def _blocks(self) -> Iterator[list[_Made]]:
        block: list[_Made] = []
        while (made := self._made.get()) is not None:
            block.append(made)
            if len(block) == BLOCK:
                yield block
                block = []
        if block:
            yield block

    def _progress(self, *, done: bool = False) -> Progress:
        return Progress(self._decode, tuple(self._tokens), self._trace, done)

    def _stops(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        return torch.full((len(input_ids),), self._stop.is_set(), device=input_ids.device)


def _joined(block: Sequence[_Made]) -> dict[int, Tensor]:
    """The residual streams [n, d] of a block, on the last layer's device."""
    device = block[0].states[max(block[0].states)].device
    return {layer: torch.cat([made.states[layer].to(device) for made in block]) for layer in block[0].states}
