"""Heads whose product numpy computes on a CPU: which ones, in which forwards, with the same numbers."""

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx_lm.generate import generate_step
from tiny_mlx import tiny

import dola.mlx
from dola.mlx import capture
from dola.mlx.on_cpu import dense_weight, product
from dola.mlx.skipping import pays

PROMPT = mx.array([5, 9, 33, 17])


def test_the_product_of_numpy_equals_that_of_mlx():
    states, head = mx.random.normal((9, 1, 32)), nn.Linear(32, 64, bias=False)
    assert mx.allclose(product(states, head.weight), head(states), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "is_read"),
    [
        (nn.Linear(32, 64, bias=False), True),
        (nn.Embedding(64, 32), True),
        (nn.Linear(32, 64), False),
        (nn.QuantizedLinear(64, 64, bias=False), False),
        (nn.QuantizedEmbedding(64, 64), False),
        (type("Scaled", (nn.Linear,), {})(32, 64, bias=False), False),  # a class of its own may do anything
        (None, False),
    ],
    ids=["linear", "embedding", "bias", "quantized", "quantized embedding", "another class", "none"],
)
def test_heads_that_numpy_can_multiply_by(head, is_read):
    assert (dense_weight(head) is not None) == is_read


def test_a_head_of_another_type_is_left_to_mlx():
    head = nn.Linear(32, 64, bias=False)
    head.set_dtype(mx.bfloat16)
    assert dense_weight(head) is None


@pytest.mark.parametrize("name", ["llama", "gemma2"], ids=["head", "embedding and soft-cap"])
def test_steps_go_through_numpy_and_prompts_do_not(name, monkeypatch):
    """The logits of a prompt are never computed: mlx-lm keeps its cache alone. numpy would compute them."""
    model, shapes = tiny(name), []
    with dola.mlx.attach(model, [2, 3]) as attached:
        attached._capture._weight = None
        wanted = [int(t) for t, _ in generate_step(PROMPT, model, max_tokens=12)]
    monkeypatch.setattr(capture, "product", lambda states, weight: shapes.append(states.shape) or product(states, weight))
    with dola.mlx.attach(model, [2, 3]):
        assert [int(t) for t, _ in generate_step(PROMPT, model, max_tokens=12)] == wanted
    assert shapes
    assert {shape[:2] for shape in shapes} == {(3, 1)}


def test_a_head_that_numpy_reads_makes_skipping_slower():
    model = tiny("llama")
    assert not pays(model)
    model.set_dtype(mx.bfloat16)
    assert pays(model)
