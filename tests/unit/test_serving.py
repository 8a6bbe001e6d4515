"""Decoding a batch of any engine: rows by their requests, on one worker and on two that have half of the head each."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dola.errors import CaptureError
from dola.integrations.vllm.capture import Captures
from dola.methods.config import DoLaConfig
from dola.methods.contrast import contrast
from dola.methods.vocabulary import WHOLE, Shard
from dola.model.readout import Readout
from dola.serving.decoder import Decoder
from dola.serving.rows import Batch, Request
from dola.serving.settings import Served

WIDTH, VOCABULARY, LAYERS = 32, 12, 4


class Engine:
    """A head and no norm, whole or in parts."""

    engine, name = "toy", "ToyModel"

    def __init__(self, weight: Tensor, *, gather: Any = None, rank: int = 0, workers: int = 1) -> None:
        self.vocab = Shard(gather) if workers > 1 else WHOLE
        self._all, self._gather = weight, gather
        self._mine = weight.chunk(workers)[rank]

    def logits(self, mature: Tensor) -> Tensor:
        return mature @ self._all.T

    def local(self, mature: Tensor) -> Tensor:
        return mature @ self._mine.T

    def whole(self, local: Tensor) -> Tensor:
        return local if self._gather is None else torch.cat(list(self._gather(local)), dim=-1)

    def readout(self, *, raw: bool) -> Readout:
        return Readout(final_norm=torch.nn.Identity(), projection=None, head=self.local)


class Gathering:
    """What two workers, here threads, have of a value."""

    def __init__(self) -> None:
        self._given: list[Any] = [None, None]
        self._barrier = threading.Barrier(2, timeout=20)

    def of(self, rank: int) -> Any:
        def gather(value: Tensor) -> Tensor:
            self._given[rank] = value
            self._barrier.wait()
            found = torch.stack(list(self._given))
            self._barrier.wait()
            return found

        return gather


def at_once(workers: int, work: Callable[[int], Any]) -> list[Any]:
    """What each worker, here a thread, returns; an error in one is raised."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(workers)))


def _batch() -> Batch:
    first, both = Request(DoLaConfig((1,)), lazy=False), Request(DoLaConfig((1, 2)), lazy=False, bans=True)
    batch = Batch({0: first, 2: both, 3: first}, wired=True)
    batch.announce()
    return batch


def _expected(hidden: Tensor, weight: Tensor) -> Tensor:
    mature, one, two = (layer @ weight.T for layer in hidden.chunk(3, dim=-1))
    scores = mature.clone()
    scores[[0, 3]] = contrast(mature[[0, 3]], one[None, [0, 3]])
    scores[2] = contrast(mature[2], torch.stack([one[2], two[2]]))
    return scores


def scored(decoder: Decoder, hidden: Tensor) -> Tensor | None:
    """The scores of the last layer's states and of two captured layers, side by side in `hidden`."""
    mature, *layers = hidden.chunk(3, dim=-1)
    return decoder.scores(mature.contiguous(), lambda layer, rows: layers[layer - 1][rows])


@pytest.fixture
def given() -> SimpleNamespace:
    torch.manual_seed(3)
    served = Served.of({"layers": [1, 2]}, num_layers=LAYERS, tied=False)
    return SimpleNamespace(served=served, hidden=torch.randn(4, 3 * WIDTH), weight=torch.randn(VOCABULARY, WIDTH) / 2)


def test_rows_go_by_their_requests_and_others_are_plain(given):
    batch = _batch()
    decoder = Decoder(Engine(given.weight), given.served, batch, WIDTH)
    torch.testing.assert_close(scored(decoder, given.hidden), _expected(given.hidden, given.weight))
    rows, mature = batch.held
    assert rows == [2]
    torch.testing.assert_close(mature, given.hidden[2:3, :WIDTH] @ given.weight.T)
    plain = scored(decoder, given.hidden)  # the second logits of a step are of prompts
    torch.testing.assert_close(plain, given.hidden[:, :WIDTH] @ given.weight.T)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_with_one_way_for_all_rows(given, workers):
    mature, one, two = (layer @ given.weight.T for layer in given.hidden.chunk(3, dim=-1))
    expected = contrast(mature, torch.stack([one, two]))
    request = Request(DoLaConfig((1, 2)), lazy=False, bans=True)
    gathering = Gathering()

    def work(rank: int) -> tuple[Tensor | None, Any]:
        batch = Batch(dict.fromkeys(range(4), request), wired=True)
        batch.announce()
        gather = None if workers == 1 else gathering.of(rank)
        engine = Engine(given.weight, gather=gather, rank=rank, workers=workers)
        return scored(Decoder(engine, given.served, batch, WIDTH), given.hidden), batch.held

    for scores, (rows, held) in at_once(workers, work):
        torch.testing.assert_close(scores, expected)
        assert rows == [0, 1, 2, 3]
        torch.testing.assert_close(held, mature)


def test_scores_of_a_batch_with_one_way_are_its_own(given):
    """Nothing is copied on the way, and yet whoever writes into the scores changes neither the logits nor what is held."""
    batch = Batch(dict.fromkeys(range(4), Request(DoLaConfig((1, 2)), bans=True)), wired=True)
    batch.announce()
    engine, logits = Engine(given.weight), given.hidden[:, :WIDTH] @ given.weight.T
    engine.local = lambda rows: logits if len(rows) == 4 and rows.dim() == 2 else rows @ given.weight.T
    mature = logits.clone()
    scored(Decoder(engine, given.served, batch, WIDTH), given.hidden).fill_(7)
    torch.testing.assert_close(logits, mature)
    torch.testing.assert_close(batch.held[1], mature)


def test_the_first_run_uses_the_most_memory(given, monkeypatch):
    """vLLM measures it: a batch of several ways copies its logits, so that run does too."""
    copied = []
    monkeypatch.setattr("dola.serving.decoder.wide", lambda logits, copy: copied.append(copy) or logits.clone())
    scored(Decoder(Engine(given.weight), given.served, Batch(wired=True), WIDTH), given.hidden)
    assert copied == [True]


def test_rows_of_the_batch_are_counted_by_method(given):
    """Not those of prompts, nor those of the engine's first run; settled rows where only the choice matters."""
    batch, engine = _batch(), Engine(given.weight)
    decoder = Decoder(engine, given.served, batch, WIDTH)
    scored(decoder, given.hidden)
    scored(decoder, given.hidden)  # the second logits of a step are of prompts
    counts = decoder.counts.take()
    assert (counts.rows, counts.settled["dola"]) == ({"plain": 1, "dola": 3}, 0)
    assert not decoder.counts.take().rows
    lazy = Request(DoLaConfig((1, 2), relative_top=1.0), lazy=True)  # one plausible token in each row
    batch.requests = dict.fromkeys(range(4), lazy)
    batch.announce()
    scored(decoder, given.hidden)
    assert decoder.counts.take().settled == {"dola": 4}
    first_run = Decoder(engine, given.served, Batch(wired=True), WIDTH)
    scored(first_run, given.hidden)
    assert not first_run.counts.take().rows


def test_two_workers_with_half_the_head_each_have_the_scores_of_one(given):
    gathering = Gathering()

    def work(rank: int) -> Tensor | None:
        engine = Engine(given.weight, gather=gathering.of(rank), rank=rank, workers=2)
        return scored(Decoder(engine, given.served, _batch(), WIDTH), given.hidden)

    for scores in at_once(2, work):
        torch.testing.assert_close(scores, _expected(given.hidden, given.weight))


def test_a_batch_that_nobody_writes_is_refused(given):
    decoder = Decoder(Engine(given.weight), given.served, Batch(), WIDTH)
    with pytest.raises(CaptureError, match="toy runs without dola's logits processor"):
        scored(decoder, given.hidden)


def test_rows_without_marks_are_refused():
    captures = Captures((1, 2), WIDTH, rows=4, dtype=torch.float32)
    with pytest.raises(CaptureError, match=r"returned rows of 32 numbers instead of 32 and 3 marks"):
        captures.split(torch.randn(4, WIDTH), checked=True)


def test_a_row_that_was_not_kept_is_refused():
    captures = Captures((1, 2), WIDTH, rows=4, dtype=torch.float32)
    _, read = captures.split(torch.zeros(4, WIDTH + 3), checked=True)
    with pytest.raises(RuntimeError, match="rows were contrasted whose layers were not captured"):
        read(1, torch.tensor([2]))
