"""A lens refined by KL: lower KL on held-out text, the same each time, exact at rate 0, and refused where it cannot be done."""

from __future__ import annotations

import pytest
import torch
from command import tokenizer
from families import tiny

import dola
from dola.errors import InputError, LensError
from dola.lens import refine
from dola.lens.sums import Sums

TEXTS = [f"The number {number} is written {number} times {number}." for number in range(40)]


@pytest.fixture(scope="module")
def model():
    made = tiny()
    with torch.no_grad():
        made.lm_head.weight *= 20  # distributions far from uniform, where squared errors and KL disagree
    return made


def fit(model, **settings):
    return dola.fit_lens(model, tokenizer(), TEXTS, layers=[2, 4], tokens=600, **settings)


def test_refinement_lowers_kl_on_held_out_text_and_is_seeded(model, tmp_path):
    plain, one = fit(model), fit(model, refine=40, output=tmp_path / "a.safetensors")
    torch.manual_seed(5)
    other = fit(model, refine=40)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
    assert (plain.facts["refined"], one.facts["refined"], one.kind) == (0, 40, "linear")
    for before, after in zip(plain.facts["table"], one.facts["table"], strict=True):
        assert (after["start_kl"], after["start_top1"]) == (before["kl"], before["top1"])
        assert after["kl"] < before["kl"]
        assert "start_kl" not in before
    assert dola.Lens.load(tmp_path / "a.safetensors").facts["refined"] == 40
    assert not any(weight.grad is not None for weight in model.parameters())


def test_at_rate_zero_the_maps_are_those_of_least_squares(model, monkeypatch):
    monkeypatch.setattr(refine, "RATE", 0.0)
    plain, same = fit(model), fit(model, refine=2)
    torch.testing.assert_close(same.weight, plain.weight, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(same.bias, plain.bias, atol=1e-4, rtol=1e-4)


def test_white_states_have_mean_zero_and_covariance_one():
    states = torch.randn(200, 6, generator=torch.Generator().manual_seed(0)).double() * torch.tensor([1e4, 1, 1, 2, 3, 0.5])
    sums = Sums.empty(6, states.device)
    sums.add(states, states)
    mean, root = sums.white(ridge=0)
    white = torch.linalg.solve_triangular(root, (states - mean).T, upper=False)
    torch.testing.assert_close(white @ white.T / 200, torch.eye(6, dtype=torch.float64), atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [-1, 2.5, True, "3"])
def test_an_invalid_number_of_steps_is_refused(model, steps):
    with pytest.raises(InputError, match=r"refine=.* is not a number of steps; allowed is 0 or more"):
        fit(model, refine=steps)


def test_a_head_without_gradients_is_refused_before_the_fit(monkeypatch):
    model = tiny()
    forward = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda hidden: forward(hidden.detach()).detach())
    with pytest.raises(LensError, match="cannot be refined: its head passes no gradients"):
        fit(model, refine=5)
