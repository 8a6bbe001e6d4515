"""What must hold of the scores of a step, for any logits: invariances, edge cases of vocabulary and dtype, ties, NaN."""

import math

import pytest
import torch
from families import tiny
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import dola_float64 as judge
from workers import together

import dola
from dola.contrast import IMPLAUSIBLE, Shard, contrast, js_divergence, plausible, reference_divergence, select_premature
from dola.decoding.reading import Reading
from dola.decoding.step import Step
from dola.errors import InputError
from dola.methods.sparse import contenders
from dola.model.readout import Readout

seeds = st.integers(0, 2**31)
finite = st.integers(-60 * 1024, 60 * 1024).map(lambda count: count / 1024)
"""Logits that float32 holds exactly, equal or far enough apart for the judge's probabilities to differ."""
logits = st.integers(1, 6).flatmap(
    lambda size: st.tuples(*(st.lists(finite | st.just(-math.inf), min_size=size, max_size=size) for _ in range(4)))
)
"""Four rows over a vocabulary of 1 to 6, some tokens impossible: a mature one and three candidates."""


def usable(rows):
    return all(max(row) > -math.inf for row in rows)


@given(logits.filter(usable), st.sampled_from([0.0, 0.1, 0.5, 1.0]))
@settings(deadline=None, max_examples=300)
@example(([0.0], [0.0], [0.0], [0.0]), 0.1)
@example(([0.0, -math.inf], [-math.inf, 0.0], [0.0, 0.0], [0.0, 0.0]), 0.0)
def test_any_small_case_is_as_in_the_float64_reference(rows, relative_top):
    mature, *premature = rows
    found = contrast(torch.tensor(mature).double(), torch.tensor(premature).double(), relative_top=relative_top)
    values = [judge.jsd(mature, candidate) for candidate in premature]
    fit = []
    for candidate, value in zip(premature, values, strict=True):
        if value >= max(values) - 1e-9:  # layers that tie
            expected = judge.contrast(mature, [candidate], relative_top)
            fit.append(all(_same(a, b) for a, b in zip(found.tolist(), expected, strict=True)))
    assert any(fit)


@given(
    seeds,
    st.integers(2, 4),
    st.integers(1, 4),
    st.integers(4, 40),
    st.sampled_from(["jsd", "reference"]),
    st.sampled_from([0.0, 0.1]),
)
@settings(deadline=None, max_examples=60)
def test_workers_that_share_out_the_vocabulary_find_what_one_finds(seed, workers, candidates, vocab, divergence, relative_top):
    generator = torch.Generator().manual_seed(seed)
    mature = 4 * torch.randn(2, vocab, generator=generator, dtype=torch.float64)
    premature = 4 * torch.randn(candidates, 2, vocab, generator=generator, dtype=torch.float64)
    how = {"relative_top": relative_top, "divergence": divergence}
    width = -(-vocab // workers)

    def columns(logits, rank):
        """A worker's, as many for each, those without a token -inf: vLLM pads like that."""
        mine = logits[..., rank * width : (rank + 1) * width]
        return torch.nn.functional.pad(mine, (0, width - mine.shape[-1]), value=-math.inf)

    def work(rank, gather):
        mine, theirs = columns(mature, rank), columns(premature, rank)
        return contrast(mine, theirs, **how, vocab=Shard(gather)), plausible(mine, relative_top, vocab=Shard(gather))

    found = together(workers, work)
    scores, kept = (torch.cat(parts, dim=-1)[:, :vocab] for parts in zip(*found, strict=True))
    torch.testing.assert_close(scores, contrast(mature, premature, **how), atol=1e-9, rtol=1e-9)
    assert torch.equal(kept, plausible(mature, relative_top))


def _same(found, expected):
    if expected == -math.inf:
        return found < -IMPLAUSIBLE + 200
    return found > 1e29 if expected == math.inf else math.isclose(found, expected, abs_tol=1e-6)


@given(seeds, st.integers(2, 5), st.sampled_from([1, 2, 5, 401]), st.booleans(), st.sampled_from([0.0, 0.1, 1.0]))
@settings(deadline=None, max_examples=150)
def test_the_sparse_step_equals_the_dense_contrast_lazy_or_not(seed, candidates, vocab, lazy, relative_top):
    generator = torch.Generator().manual_seed(seed)
    mature = 4 * torch.randn(3, vocab, generator=generator)
    premature = 4 * torch.randn(candidates, 3, vocab, generator=generator)
    step = Step(Readout(None, None, torch.nn.Identity()), dola.DoLaConfig("high", relative_top=relative_top))
    scores = step.scores(mature, [], Reading(torch.cat([mature[None], premature])), lazy=lazy)
    expected = contrast(mature, premature, relative_top=relative_top)
    alone = plausible(mature, relative_top).sum(-1) == 1
    if lazy:  # a row with one plausible token keeps its choice, whatever its score
        assert torch.equal(scores.argmax(-1), expected.argmax(-1))
        scores, expected = scores[~alone], expected[~alone]
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-5)


@given(seeds, st.permutations(range(5)))
@settings(deadline=None)
def test_rows_may_come_in_any_order(seed, order):
    generator = torch.Generator().manual_seed(seed)
    mature, premature = torch.randn(5, 41, generator=generator), torch.randn(3, 5, 41, generator=generator)
    shuffled = contrast(mature[list(order)], premature[:, list(order)])
    torch.testing.assert_close(shuffled, contrast(mature, premature)[list(order)])


@given(seeds, st.integers(2, 7))
@settings(deadline=None)
def test_chunks_of_rows_are_the_whole(seed, rows):
    generator = torch.Generator().manual_seed(seed)
    mature, premature = torch.randn(rows, 41, generator=generator), torch.randn(3, rows, 41, generator=generator)
    whole = contrast(mature, premature)
    parts = [contrast(mature[i : i + 2], premature[:, i : i + 2]) for i in range(0, rows, 2)]
    torch.testing.assert_close(torch.cat(parts), whole)


@given(seeds, st.floats(-100, 100), st.floats(-100, 100), st.sampled_from([0.0, 0.1]))
@settings(deadline=None)
def test_a_constant_added_to_any_layers_logits_changes_no_score(seed, mature_shift, premature_shift, relative_top):
    generator = torch.Generator().manual_seed(seed)
    mature = torch.randn(2, 41, dtype=torch.float64, generator=generator)
    premature = torch.randn(3, 2, 41, dtype=torch.float64, generator=generator)
    shifted = contrast(mature + mature_shift, premature + premature_shift, relative_top=relative_top)
    torch.testing.assert_close(shifted, contrast(mature, premature, relative_top=relative_top), atol=1e-9, rtol=1e-9)


@given(seeds, st.permutations(range(41)))
@settings(deadline=None)
def test_tokens_may_be_numbered_otherwise(seed, order):
    generator = torch.Generator().manual_seed(seed)
    mature = torch.randn(2, 41, dtype=torch.float64, generator=generator)
    premature = torch.randn(3, 2, 41, dtype=torch.float64, generator=generator)
    renamed = contrast(mature[:, list(order)], premature[:, :, list(order)])
    torch.testing.assert_close(renamed, contrast(mature, premature)[:, list(order)])


@given(seeds, st.integers(2, 6))
@settings(deadline=None)
def test_equal_layers_leave_the_first_one_and_scores_of_zero(seed, candidates):
    mature = torch.randn(3, 41, generator=torch.Generator().manual_seed(seed))
    premature = mature.expand(candidates, 3, 41)
    assert (select_premature(mature, premature) == 0).all()
    scores = contrast(mature, premature)
    assert (scores[plausible(mature)] == 0).all()
    assert (scores.argmax(-1)[:, None] == plausible(mature).int().argmax(-1)[:, None]).all()  # the first of equals
    log_p = mature[0].log_softmax(-1)
    assert contenders(log_p, premature[:, 0], premature[:, 0].logsumexp(-1)) == list(range(candidates))


@given(seeds, st.sampled_from([torch.float16, torch.bfloat16]), st.sampled_from([1.0, 100.0, 65504.0]))
@settings(deadline=None)
def test_16_bits_to_their_extremes_give_finite_scores_in_float32(seed, dtype, scale):
    generator = torch.Generator().manual_seed(seed)
    drawn = (scale * (2 * torch.rand(4, 2, 41, generator=generator) - 1)).to(dtype)
    drawn[:, :, 0], drawn[:, :, 1] = torch.finfo(dtype).min, torch.finfo(torch.float16).max
    scores = contrast(drawn[0], drawn[1:])
    assert scores.dtype == torch.float32
    assert scores.isfinite().all()
    assert (js_divergence(drawn[0], drawn[1:]) <= math.log(2) + 1e-5).all()
    torch.testing.assert_close(scores, contrast(drawn[0].float(), drawn[1:].float()))


@pytest.mark.parametrize("vocab", [1, 2, 300_000])
@pytest.mark.parametrize("divergence", ["jsd", "reference"])
def test_vocabularies_of_any_size(vocab, divergence):
    generator = torch.Generator().manual_seed(0)
    mature, premature = 4 * torch.randn(2, vocab, generator=generator), 4 * torch.randn(3, 2, vocab, generator=generator)
    scores = contrast(mature, premature, divergence=divergence)
    exact = contrast(mature.double(), premature.double(), divergence=divergence)
    torch.testing.assert_close(scores.double(), exact, atol=2e-4, rtol=1e-4)
    assert (reference_divergence(mature, premature) >= -1e-6).all()
    if vocab == 1:
        assert (scores == 0).all()


@given(st.sampled_from([math.nan, math.inf]), st.integers(0, 40))
@settings(deadline=None, max_examples=20)
def test_nan_never_becomes_a_token(value, token):
    mature, premature = torch.zeros(1, 41), torch.zeros(2, 1, 41)
    mature[0, token] = value
    assert not contrast(mature, premature).amax(dim=-1).isfinite().any()


@pytest.mark.parametrize("spoilt", ["mature", "premature"])
def test_nan_in_a_model_is_an_error_with_a_message(ids, spoilt):
    model = tiny("llama")
    block = model.model.layers[4 if spoilt == "mature" else 0]
    block.mlp.down_proj.weight[0, 0] = math.nan
    with dola.attach(model, "high"), pytest.raises(InputError, match="NaN"):
        model.generate(ids, max_new_tokens=2)


@given(seeds, st.integers(1, 4), st.integers(0, 3))
@settings(deadline=None, max_examples=25)
def test_batches_padding_and_order_change_no_row(seed, size, extra):
    """Through a whole model, in float64, where rounding cannot choose: rows of any lengths, shuffled, padded on the left."""
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 400, (int(n),), generator=generator) for n in torch.randint(1, 6, (size,), generator=generator)]
    width = max(map(len, rows)) + extra
    padded = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows]).long()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), dola.attach(MODEL, "high"):
        together = MODEL(padded, attention_mask=mask, position_ids=positions).logits[:, -1]
        backwards = MODEL(padded.flip(0), attention_mask=mask.flip(0), position_ids=positions.flip(0)).logits[:, -1].flip(0)
        alone = torch.cat([MODEL(row[None]).logits[:, -1] for row in rows])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(backwards, alone, atol=1e-6, rtol=1e-6)


MODEL = tiny("llama", dtype=torch.float64)
