"""Compiled models with DoLa attached: as many compilations as plain models have on the same calls, and the same scores.

Batches of 1 to 9 rows are one more than torch compiles a function for before it gives up. So code that is compiled for each
number of rows fails here.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._dynamo
from families import tiny
from torch._dynamo.utils import counters
from transformers import CompileConfig

import dola
from dola.decoding import step
from dola.decoding.candidates import Captured

LAYERS = [[1], [1, 2], "high", dola.DoLaConfig.reference("low")]


@pytest.fixture(scope="module")
def base() -> Any:
    return tiny("llama", num_hidden_layers=3)


def ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(3, 400, (rows, length), generator=torch.Generator().manual_seed(97 * rows + length))


def compilations(calls: Callable[[Any], Any], model: Any) -> tuple[int, Any]:
    """How many graphs torch compiles for some calls on a model, and what these return."""
    torch._dynamo.reset()
    counters.clear()
    with torch.no_grad():
        found = calls(model)
    return counters["stats"]["unique_graphs"], found


def generated(**given: Any) -> Callable[[Any], list[torch.Tensor]]:
    """Generates with a static cache, compiled; `shapes` are (rows, length) of the prompts."""
    shapes = given.pop("shapes")
    options = CompileConfig(backend="eager", mode=None, **given)
    options._compile_all_devices = True  # or `generate` compiles nothing on a CPU
    return lambda model: [generate(model, rows, length, compile_config=options) for rows, length in shapes]


def generate(model: Any, rows: int = 2, length: int = 4, **settings: Any) -> Any:
    settings = {"cache_implementation": "static", "do_sample": False, "max_new_tokens": 3, "pad_token_id": 0, **settings}
    return model.generate(ids(rows, length), **settings)


def wrapped(**given: Any) -> Callable[[Any], list[torch.Tensor]]:
    """Logits of a `torch.compile(model)`."""
    shapes = given.pop("shapes")

    def calls(model: Any) -> list[torch.Tensor]:
        forward = torch.compile(model, backend="eager", **given)
        return [forward(ids(rows, length)).logits for rows, length in shapes]

    return calls


MANY = [(rows, 3) for rows in range(1, 10)]
FEW = [(1, 3), (2, 3), (3, 3), (4, 7), (1, 7)]


@pytest.mark.parametrize(("layers", "dynamic"), [*((layers, None) for layers in LAYERS), ([1, 2], True)], ids=str)
def test_generate_compiles_as_often_as_without_dola(base: Any, layers: Any, dynamic: bool | None):
    calls = generated(shapes=MANY if layers == [1, 2] else FEW, fullgraph=True, dynamic=dynamic)
    expected, plain = compilations(calls, copy.deepcopy(base))
    model = copy.deepcopy(base)
    with dola.attach(model, layers):
        found, tokens = compilations(calls, model)
        eager = [generate(model, *prompt.shape) for prompt in (t[:, :-3] for t in tokens)]
    assert found == expected <= 4
    assert all(torch.equal(a, b) for a, b in zip(tokens, eager, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(tokens, plain, strict=True))


@pytest.mark.parametrize("given", [{}, {"dynamic": True}, {"dynamic": False}, {"fullgraph": True}], ids=str)
def test_a_wrapper_compiles_as_often_as_without_dola(base: Any, given: dict[str, Any]):
    calls = wrapped(shapes=MANY if given == {"fullgraph": True} else FEW, **given)
    expected, _ = compilations(calls, copy.deepcopy(base))
    model = copy.deepcopy(base)
    with dola.attach(model, "high"):
        found, logits = compilations(calls, model)
        for scores in logits:
            torch.testing.assert_close(scores, model(ids(*scores.shape[:2])).logits, atol=1e-3, rtol=1e-3)
    assert found == expected


def test_a_mix_of_calls_compiles_as_often_as_without_dola(base: Any):
    """A wrapper and `generate` in turns, beams, processors, returned scores: what DoLa looks at differs from call to call."""

    def calls(model: Any) -> None:
        forward = torch.compile(model, backend="eager")
        options = CompileConfig(backend="eager", mode=None, fullgraph=True)
        options._compile_all_devices = True
        for settings in (
            {},
            {"return_dict_in_generate": True, "output_scores": True},
            {"rows": 3, "repetition_penalty": 1.2, "suppress_tokens": [3]},
            {"rows": 3, "sequence_bias": {(7,): 100.0}},
            {"num_beams": 2},
            {"rows": 1, "length": 9},
        ):
            forward(ids(2, 4))
            generate(model, compile_config=options, **settings)
        forward(ids(3, 5), logits_to_keep=1)

    expected, _ = compilations(calls, copy.deepcopy(base))
    model = copy.deepcopy(base)
    with dola.attach(model):
        calls(model)
    with dola.attach(model, [2]):  # again, with other layers
        assert compilations(calls, model)[0] == expected


def test_compiled_code_keeps_to_the_memory_that_it_may_take(base: Any, monkeypatch: pytest.MonkeyPatch):
    """Rows that do not fit go through the head in parts, and what is compiled still serves all of them."""
    model, bound, made = copy.deepcopy(base), 401 * 2 * 3, []
    expected, _ = compilations(wrapped(shapes=MANY), copy.deepcopy(base))
    with dola.attach(model, [1, 2]):
        whole = wrapped(shapes=MANY)(model)
    monkeypatch.setitem(step.CHUNK_ELEMENTS, "cpu", bound)
    read = Captured.read

    def spied(self: Any, *args: Any, **kwargs: Any) -> Any:
        found = read(self, *args, **kwargs)
        made.append(found.logits.numel())
        return found

    monkeypatch.setattr(Captured, "read", spied)
    with dola.attach(model, [1, 2]):
        found, logits = compilations(wrapped(shapes=MANY), model)
    assert found == expected
    assert max(made) == bound
    for a, b in zip(whole, logits, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_decoding_steps_that_do_not_fit_are_compiled_apart(base: Any, monkeypatch: pytest.MonkeyPatch):
    """Up to the bound all layers go through the head together. Beyond it torch compiles once more, not for each batch."""
    monkeypatch.setitem(step.CHUNK_ELEMENTS, "cpu", 401 * 2 * 4)
    calls = generated(shapes=MANY)
    expected, _ = compilations(calls, copy.deepcopy(base))
    model = copy.deepcopy(base)
    with dola.attach(model, [1, 2]):
        found, tokens = compilations(calls, model)
        eager = [generate(model, *shape) for shape in MANY]
    assert found <= expected + 1
    assert all(torch.equal(a, b) for a, b in zip(tokens, eager, strict=True))
