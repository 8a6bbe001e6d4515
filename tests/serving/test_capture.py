"""Capture of layers by a custom operator: which rows are kept, and where they are found again. No engine runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dola.errors import CaptureError, ModelError


def _captures(layers: tuple[int, ...] = (0, 1), rows: int = 4, **settings: Any) -> Any:
    from dola.integrations.vllm.capture import Captures

    return Captures(layers, 8, rows, dtype=torch.float32, **settings)


def _metadata(*starts: int) -> Any:
    return {"layer.0": SimpleNamespace(query_start_loc=torch.tensor(starts))}


class Block(nn.Module):
    """Adds what its first weight says, and overwrites its input, as vLLM's fused norms do on GPUs."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.one, self.two, self.number = nn.Linear(8, 8), nn.Linear(8, 8), float(number + 1)

    def forward(self, positions: Any, hidden_states: Any) -> Any:
        return hidden_states.add_(self.number)


class ApartBlock(Block):
    def forward(self, positions: Any, hidden_states: Any, residual: Any = None) -> Any:
        residual = hidden_states.clone() if residual is None else residual.add_(hidden_states)
        return hidden_states.fill_(self.number), residual


def _decoder(kind: type[Block], captures: Any) -> Any:
    from dola.integrations.vllm.capture import capture
    from dola.integrations.vllm.parts import Parts

    blocks = nn.ModuleList(kind(number) for number in range(3))
    capture(nn.Module(), Parts("layers", blocks, [], None, None, 8), captures)
    return blocks


@pytest.mark.parametrize("kind", [Block, ApartBlock])
@pytest.mark.parametrize("by_name", [False, True])
def test_each_row_finds_its_own_layers(kind: type[Block], by_name: bool):
    """Three requests of 3, 1 and 2 tokens: rows 2, 3 and 5 are kept, whatever blocks pass on and overwrite."""
    captures = _captures()
    blocks = _decoder(kind, captures)
    hidden = torch.arange(6.0)[:, None].repeat(1, 8) * 10
    with captures.running(_metadata(0, 3, 4, 6)):
        passed: Any = (hidden.clone(),) if kind is Block else (hidden.clone(), None)
        for block in blocks:
            names = dict(zip(("positions", "hidden_states", "residual"), (None, *passed), strict=False))
            output = block(**names) if by_name else block(None, *passed)
            passed = output if isinstance(output, tuple) else (output,)
        marked = captures.marked(hidden)
    found, read = captures.split(marked[[2, 3, 5]], checked=True)
    assert torch.equal(found, hidden[[2, 3, 5]])
    assert read(0, torch.tensor([0, 1, 2]))[:, 0].tolist() == [20, 30, 50]
    assert read(1, torch.tensor([2, 1]))[:, 0].tolist() == [51, 31]
    assert captures.buffer[captures.output, :3, 0].tolist() == [26, 36, 56]


def test_rows_that_were_not_kept_are_an_error():
    captures = _captures()
    with captures.running(_metadata(0, 3, 6)):
        captures.keep(torch.zeros(6, 8), None, 0)
        marked = captures.marked(torch.zeros(6, 8))
    _, read = captures.split(marked[[1]], checked=True)
    with pytest.raises(RuntimeError, match="were not captured"):
        read(0, torch.tensor([0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_marks_are_exact_in_every_dtype(dtype: torch.dtype):
    """bfloat16 has eight bits: row 8,191 of 8,192 keeps its place."""
    captures = _captures(rows=1)
    with captures.running(None, everything=True):
        captures.keep(torch.arange(8192.0)[:, None].repeat(1, 8), None, 0)
        marked = captures.marked(torch.zeros(8192, 8, dtype=dtype))
    _, read = captures.split(marked, checked=True)
    assert torch.equal(read(0, torch.arange(8192))[:, 0], torch.arange(8192.0))


def test_speculation_keeps_the_last_rows_of_each_request():
    from dola.integrations.vllm.capture import last_rows

    assert sorted({*last_rows(torch.tensor([0, 4, 5, 8]), 3).tolist()}) == [1, 2, 3, 4, 5, 6, 7]


def test_attention_that_splits_requests_does_not_count():
    from dola.integrations.vllm.capture import query_starts

    local = {"local": SimpleNamespace(query_start_loc=torch.tensor([0, 2, 4, 6])), **_metadata(0, 6), "mamba": object()}
    assert query_starts(local).tolist() == [0, 6]
    assert query_starts({"mamba": object()}) is query_starts(None) is None


def test_more_rows_than_expected_are_all_kept():
    captures = _captures(rows=1)
    with captures.running({"mamba": object()}):  # no attention says where requests start: all rows are kept
        captures.keep(torch.arange(5.0)[:, None].repeat(1, 8), None, 1)
        marked = captures.marked(torch.zeros(5, 8))
    _, read = captures.split(marked, checked=True)
    assert read(1, torch.tensor([4, 0]))[:, 0].tolist() == [4, 0]


def test_outputs_of_another_width_are_refused():
    with pytest.raises(CaptureError, match="rows of 8 numbers instead of 8 and 3 marks"):
        _captures().split(torch.zeros(2, 8), checked=True)


def test_a_stream_of_another_shape_is_a_fault():
    """Hyper-connections pass on several streams for each token."""
    captures = _captures()
    with captures.running(None):
        captures.keep(torch.zeros(5, 4, 16), None, 0)
    assert "[5, 4, 16]" in captures.fault


def test_blocks_that_take_no_states_are_refused():
    from dola.integrations.vllm.capture import capture
    from dola.integrations.vllm.parts import Parts

    class Odd(nn.Module):
        def forward(self, tokens: Any) -> Any: ...

    with pytest.raises(ModelError, match="takes tokens: none of them could be hidden states"):
        capture(nn.Module(), Parts("layers", nn.ModuleList([Odd()]), [], None, None, 8), _captures((0,)))


def test_a_pipeline_stage_forwards_rows():
    """The second stage captures layer 2, and gets layers 0 and 1 from the first."""
    first, second = _captures((0, 1, 2)), _captures((0, 1, 2))
    with first.running(_metadata(0, 2, 3)):
        for layer in (0, 1):
            first.keep(torch.arange(3.0)[:, None].repeat(1, 8) + 10 * layer, None, layer)
        sent = first.sent(3, (0, 1))
    assert sent.shape == (3, 16)
    with second.running(_metadata(0, 2, 3)):
        second.receive(sent, (0, 1))
        second.keep(torch.arange(3.0)[:, None].repeat(1, 8) + 20, None, 2)
        marked = second.marked(torch.zeros(3, 8))
    _, read = second.split(marked[[1, 2]], checked=True)
    assert [read(layer, torch.tensor([0, 1]))[:, 0].tolist() for layer in (0, 1, 2)] == [[1, 2], [11, 12], [21, 22]]


def test_a_residual_that_blocks_have_added_is_not_added_again():
    """The proof keeps the last block's output both ways, and says which is right."""
    captures = _captures()
    captures.apart = False
    with captures.running(None):
        captures.keep(torch.full((2, 8), 3.0), torch.ones(2, 8), 0)
        captures.keep(torch.full((2, 8), 3.0), torch.ones(2, 8), captures.output)
    assert captures.buffer[[0, captures.output, captures.output + 1], 0, 0].tolist() == [3, 4, 3]
