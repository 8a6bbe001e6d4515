"""What must hold of the pure functions for any logits."""

import math

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dola.contrast import contrast, js_divergence, plausible, select_premature


@st.composite
def logits(draw, candidates=3):
    """(mature [R, V], premature [K, R, V]) of any scale, some entries -inf."""
    seed, scale = draw(st.integers(0, 2**31)), draw(st.sampled_from([1e-3, 1.0, 10.0, 1e3]))
    rows, vocab = draw(st.integers(1, 5)), draw(st.sampled_from([1, 2, 3, 41, 401]))
    generator = torch.Generator().manual_seed(seed)
    drawn = scale * torch.randn(candidates + 1, rows, vocab, generator=generator)
    if draw(st.booleans()) and vocab > 2:
        drawn[:, :, 0] = -torch.inf
    return drawn[0], drawn[1:]


@given(logits())
@settings(deadline=None)
def test_divergence_is_bounded_symmetric_and_zero_on_itself(drawn):
    mature, premature = drawn
    divergence = js_divergence(mature, premature)
    assert (divergence >= 0).all()
    assert (divergence <= math.log(2) + 1e-5).all()
    torch.testing.assert_close(divergence[0], js_divergence(premature[0], mature[None])[0], atol=1e-6, rtol=1e-4)
    assert js_divergence(mature, mature[None]).abs().max() < 1e-6


@given(logits(), st.floats(-50, 50))
@settings(deadline=None)
def test_a_constant_added_to_logits_changes_nothing(drawn, shift):
    mature, premature = drawn
    torch.testing.assert_close(js_divergence(mature, premature), js_divergence(mature + shift, premature), atol=1e-4, rtol=1e-3)


@given(logits(candidates=4), st.permutations(range(4)))
@settings(deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
def test_the_order_of_candidates_does_not_matter(drawn, order):
    mature, premature = drawn
    best, second = js_divergence(mature, premature).topk(2, dim=0).values
    assume((best - second > 1e-5).all())  # the first wins a tie, and layers far from the mature one are all ln 2 away
    torch.testing.assert_close(contrast(mature, premature), contrast(mature, premature[list(order)]))


@given(logits())
@settings(deadline=None)
def test_rows_do_not_influence_one_another(drawn):
    mature, premature = drawn
    together = contrast(mature, premature)
    for i in range(len(mature)):
        torch.testing.assert_close(contrast(mature[i], premature[:, i]), together[i])
        assert select_premature(mature[i], premature[:, i]) == select_premature(mature, premature)[i]


@given(logits(), st.floats(0, 1))
@settings(deadline=None)
def test_the_chosen_token_is_plausible_and_no_score_is_nan(drawn, relative_top):
    mature, premature = drawn
    scores = contrast(mature, premature, relative_top=relative_top)
    assert not scores.isnan().any()
    assert plausible(mature, relative_top).gather(-1, scores.argmax(-1, keepdim=True)).all()
