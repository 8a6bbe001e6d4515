"""contrast.py against the float64 reference: odd shapes, all dtypes, -inf."""

import math

import pytest
import torch
from reference import dola_float64 as judge

from dola.contrast import (
    IMPLAUSIBLE,
    LARGEST_SCORE,
    contrast,
    js_divergence,
    plausible,
    reference_divergence,
    select_premature,
)

SHAPES = [((1,), 1, 401), ((41,), 3, 401), ((2, 5), 4, 1271), ((1, 1), 8, 41), ((3,), 2, 1), ((2,), 2, 2)]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-5, torch.float16: 2e-5}
"""Absolute, in nats, given the same logits: low-precision input is widened exactly, so only float32 arithmetic counts."""


def example(leading, candidates, vocab, dtype, *, holes=False):
    generator = torch.Generator().manual_seed(vocab * 10 + candidates)
    mature = 4 * torch.randn(*leading, vocab, generator=generator)
    premature = 4 * torch.randn(candidates, *leading, vocab, generator=generator)
    if holes:  # as a vocabulary padded to a multiple of 64 has them, in every layer; and some of one layer alone
        mature[..., vocab // 2 :: 3] = -torch.inf
        premature[..., vocab // 2 :: 3] = -torch.inf
        mature[..., 1::7] = -torch.inf
    return mature.to(dtype), premature.to(dtype)


def rows(mature, premature):
    """(mature row, premature rows) as lists of float64, one pair per position."""
    vocab = mature.shape[-1]
    flat = premature.double().reshape(len(premature), -1, vocab)
    for position, row in enumerate(mature.double().reshape(-1, vocab)):
        yield row.tolist(), flat[:, position].tolist()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("holes", [False, True], ids=["dense", "-inf"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["jsd", "reference"])
def test_equals_the_float64_reference(shape, dtype, holes, name):
    if holes and shape[2] < 41:
        holes = False
    mature, premature = example(*shape, dtype, holes=holes)
    tolerance = TOLERANCE[dtype]
    divergence = {"jsd": js_divergence, "reference": reference_divergence}[name](mature, premature)
    chosen = select_premature(mature, premature, divergence=name)
    inside = plausible(mature, 0.1)
    scores = contrast(mature, premature, relative_top=0.1, divergence=name)
    assert scores.shape == inside.shape == mature.shape
    assert divergence.shape == premature.shape[:-1]
    assert chosen.shape == mature.shape[:-1]
    for i, (row, candidates) in enumerate(rows(mature, premature)):
        expected = [judge.DIVERGENCES[name](row, candidate) for candidate in candidates]
        assert divergence.flatten(1)[:, i].tolist() == pytest.approx(expected, abs=tolerance, rel=1e-4)
        assert int(chosen.flatten()[i]) == judge.select(row, candidates, name)
        judged = judge.contrast(row, candidates, 0.1, name)
        got, keep = scores.reshape(-1, len(row))[i], inside.reshape(-1, len(row))[i]
        assert keep.tolist() == [value > -math.inf for value in judged]
        for value, expected_value in zip(got[keep].tolist(), [v for v in judged if v > -math.inf], strict=True):
            assert value == pytest.approx(min(expected_value, LARGEST_SCORE), abs=tolerance, rel=1e-5)
        assert not got.isnan().any()


def test_implausible_tokens_stay_below_in_the_mature_order():
    mature, premature = example((64,), 3, 1271, torch.float32)
    premature *= 30  # absurdly peaked layers, as an un-normed readout gives them
    scores, inside = contrast(mature, premature), plausible(mature)
    outside = ~inside
    assert (scores.masked_fill(outside, torch.inf).amin(-1) > scores.masked_fill(inside, -torch.inf).amax(-1)).all()
    for row, values, out in zip(scores, mature, outside, strict=True):
        in_mature_order = row[out][values[out].argsort(descending=True)]
        assert (in_mature_order.diff() <= 0).all()  # never reversed; closer than 6e-5 nats, float32 may call it a tie
        assert in_mature_order.unique().numel() > 0.9 * out.sum()


def test_float32_still_distinguishes_implausible_tokens():
    step = torch.tensor([[0.0, -10.0, -10.001]])
    scores = contrast(step, step[None])
    assert scores[0, 1] > scores[0, 2] > -2 * IMPLAUSIBLE


@pytest.mark.parametrize("name", ["jsd", "reference"])
def test_a_layer_that_is_nan_is_chosen_so_that_the_scores_show_it(name):
    mature, premature = example((3,), 4, 41, torch.float32)
    premature[2] = torch.nan
    assert (select_premature(mature, premature, divergence=name) == 2).all()
    assert contrast(mature, premature, divergence=name).isnan().any(dim=-1).all()


def test_relative_top_bounds():
    mature, premature = example((5,), 2, 41, torch.float32)
    assert plausible(mature, 0.0).all()
    assert (plausible(mature, 1.0).sum(-1) == 1).all()
    tie = torch.tensor([2.0, 2.0, 1.0])
    assert plausible(tie, 1.0).tolist() == [True, True, False]
    assert contrast(mature, premature, relative_top=0.0).amin() > -IMPLAUSIBLE / 2


def test_static_dola_has_nothing_to_select():
    mature, premature = example((4,), 3, 41, torch.float32)
    forced = contrast(mature, premature[1:2])
    for i, (row, candidates) in enumerate(rows(mature, premature)):
        judged = judge.contrast(row, candidates[1:2])
        assert int(forced[i].argmax()) == max(range(len(judged)), key=judged.__getitem__)


def test_a_token_that_the_premature_layer_excludes_scores_high_but_finite():
    scores = contrast(torch.tensor([0.0, 0.0]), torch.tensor([[0.0, -torch.inf]]))
    assert scores[1] == pytest.approx(LARGEST_SCORE)
    assert (scores * 1.2 / 0.01).isfinite().all()


def test_the_first_candidate_wins_a_tie():
    mature = torch.randn(3, 41)
    layer = torch.randn(3, 41)
    assert select_premature(mature, torch.stack([layer, layer])).tolist() == [0, 0, 0]


def test_float64_stays_float64():
    mature, premature = example((2,), 2, 41, torch.float64)
    assert contrast(mature, premature).dtype == torch.float64
    assert contrast(mature.bfloat16(), premature.bfloat16()).dtype == torch.float32
