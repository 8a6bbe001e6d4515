"""Strength, and scores as a distribution: the formulas against a float64 judge, generation, bans, and likelihoods."""

import copy
import math

import pytest
import torch
from families import tiny
from reference import distribution_float64 as judge
from workers import together

import dola
from dola import DoLaConfig, Recipe
from dola.contrast import Shard, contrast, plausible
from dola.decoding.reading import Reading
from dola.decoding.step import Step
from dola.model.readout import Readout
from dola.serving.bans import decided_by_mature
from dola.serving.rows import Request

IDS = torch.tensor([[5, 17, 200, 33, 8, 91, 4], [9, 9, 31, 6, 77, 3, 250]])
SETTINGS = {"max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": None}
MODES = {
    "greedy": {"do_sample": False},
    "penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "bias": {"do_sample": False, "sequence_bias": {(7,): 3.0, (8,): -2.0}},
    "bans": {"do_sample": False, "no_repeat_ngram_size": 1, "suppress_tokens": [3, 4]},
    "sampling": {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "repetition_penalty": 1.2},
    "beams": {"do_sample": False, "num_beams": 3, "repetition_penalty": 1.2},
}


def drawn(seed=0, rows=4, vocab=41, candidates=3, dtype=torch.float64):
    """(mature [R, V], premature [K, R, V])."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(candidates + 1, rows, vocab, generator=generator, dtype=dtype)
    return logits[0], logits[1:]


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.mark.parametrize("relative_top", [0.0, 0.1, 0.7, 1.0])
@pytest.mark.parametrize("strength", [0.0, 0.25, 1.0, 3.0])
def test_both_kinds_of_scores_are_the_judges(strength, relative_top):
    mature, premature = drawn()
    how = {"strength": strength, "relative_top": relative_top}
    found = contrast(mature, premature, **how, scores="distribution")
    p = found.softmax(dim=-1)
    assert (p.sum(dim=-1) - 1).abs().max() < 1e-12
    assert (found.logsumexp(dim=-1) - mature.logsumexp(dim=-1)).abs().max() < 1e-12, "logits on the model's scale"
    for row, logits in enumerate(mature):
        layers = premature[:, row].tolist()
        expected = judge.distribution(logits.tolist(), layers, **how)
        assert abs(math.fsum(expected) - 1) < 1e-12
        assert p[row].tolist() == pytest.approx(expected, abs=1e-12)
        gains = contrast(logits, premature[:, row], **how)
        inside = plausible(logits, relative_top)
        ours = torch.tensor(judge.contrast(logits.tolist(), layers, **how), dtype=torch.float64)
        torch.testing.assert_close(gains[inside], ours[inside], atol=1e-12, rtol=0)
    outside = ~plausible(mature, relative_top)
    assert torch.equal(found[outside], mature[outside])


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("divergence", ["jsd", "reference"])
@pytest.mark.parametrize("lazy", [True, False])
def test_the_sparse_step_equals_the_formula(strength, divergence, lazy):
    mature, premature = drawn(1, rows=30, dtype=torch.float32)
    how = {"strength": strength, "scores": "distribution", "divergence": divergence}
    step = Step(Readout(None, None, torch.nn.Identity()), DoLaConfig("high", lazy=lazy, **how))
    found = step.scores(mature, [], Reading(torch.cat([mature[None], premature])), lazy=lazy)
    torch.testing.assert_close(found, contrast(mature, premature, **how), atol=1e-5, rtol=1e-5)
    alone = plausible(mature).sum(dim=-1) == 1
    assert alone.any()
    assert torch.equal(found[alone], mature[alone]), "a row with one plausible token is the model's own, exactly"
    assert step.rows_saved == (0 if not lazy else 30 if strength == 0 else int(alone.sum()))


@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("relative_top", [0.0, 0.1])
def test_workers_that_share_the_vocabulary_find_what_one_finds(workers, relative_top):
    mature, premature = drawn(2)
    how = {"strength": 0.5, "scores": "distribution", "relative_top": relative_top}
    width = -(-mature.shape[-1] // workers)

    def columns(logits, rank):
        mine = logits[..., rank * width : (rank + 1) * width]
        return torch.nn.functional.pad(mine, (0, width - mine.shape[-1]), value=-math.inf)

    found = together(
        workers, lambda rank, gather: contrast(columns(mature, rank), columns(premature, rank), **how, vocab=Shard(gather))
    )
    scores = torch.cat(found, dim=-1)[:, : mature.shape[-1]]
    torch.testing.assert_close(scores, contrast(mature, premature, **how), atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("mode", MODES)
def test_at_strength_0_a_distribution_is_plain_decoding(model, mode):
    call = {**SETTINGS, **MODES[mode]}
    torch.manual_seed(3)
    plain = model.generate(IDS, attention_mask=torch.ones_like(IDS), **call)
    torch.manual_seed(3)
    config = DoLaConfig("high", strength=0, scores="distribution")
    ours = dola.generate(model, input_ids=IDS, attention_mask=torch.ones_like(IDS), dola_layers=config, **call)
    assert torch.equal(plain, ours)


@torch.no_grad()
def test_at_strength_0_logits_are_the_models_own(model):
    plain = model(IDS).logits
    for lazy in (True, False):
        with dola.attach(model, DoLaConfig("high", strength=0, scores="distribution", lazy=lazy)):
            assert torch.equal(model(IDS).logits, plain)


def test_greedy_tokens_are_the_contrasts(model):
    call = {**SETTINGS, "do_sample": False, "attention_mask": torch.ones_like(IDS)}
    first, second = (
        dola.generate(model, input_ids=IDS, dola_layers=DoLaConfig("high", scores=scores), **call)
        for scores in ("contrast", "distribution")
    )
    assert torch.equal(first, second)
    assert torch.equal(first, dola.generate(model, input_ids=IDS, dola_layers="high", **call))


def test_a_row_whose_plausible_tokens_are_banned_keeps_the_models_order(model):
    """The row needs no second decision: outside the plausible set its scores are the model's own."""
    with torch.no_grad():
        mature = model(IDS[:1]).logits[0, -1]
    banned = plausible(mature).nonzero()[:, 0].tolist()
    call = {**SETTINGS, "max_new_tokens": 1, "do_sample": False, "attention_mask": torch.ones_like(IDS[:1])}
    call |= {"suppress_tokens": banned, "output_scores": True, "return_dict_in_generate": True}
    config = DoLaConfig("high", scores="distribution")
    found = dola.generate(model, input_ids=IDS[:1], dola_layers=config, **call)
    left = mature.index_fill(0, torch.tensor(banned), -math.inf)
    torch.testing.assert_close(found.scores[0][0], left, atol=1e-5, rtol=0)
    assert found.sequences[0, -1] == left.argmax()
    forced = dola.generate(
        model, input_ids=IDS[:1], dola_layers=config, **{**call, "suppress_tokens": None, "sequence_bias": {(399,): 100.0}}
    )
    assert forced.sequences[0, -1] == 399


def test_a_server_leaves_rows_with_bans_and_biases_alone():
    """Neither a ban of all plausible tokens nor a bias that raises another one makes the mature scores decide."""
    config, (mature, premature) = DoLaConfig([1], scores="distribution"), drawn(4)
    scores = contrast(mature, premature, scores="distribution").masked_fill(plausible(mature), -math.inf)
    lifted = scores.clone()
    lifted[:, 40] += 50
    assert torch.equal(decided_by_mature(scores, mature, [Request(config, bans=True)] * len(mature)), scores)
    assert torch.equal(decided_by_mature(lifted, mature, [Request(config, bias={40: 50.0})] * len(mature)), lifted)


@torch.no_grad()
def test_rows_do_not_depend_on_the_batch(model):
    model = copy.deepcopy(model).double()
    with dola.attach(model, DoLaConfig("high", strength=0.5, scores="distribution")):
        both = model(IDS).logits
        alone = torch.cat([model(row[None]).logits for row in IDS])
    torch.testing.assert_close(both, alone, atol=1e-9, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("relative_top", [0.0, 0.1])
def test_likelihoods_are_of_the_distribution(model, strength, relative_top):
    """Those of all tokens sum to 1, and are the attached model's."""
    config = DoLaConfig("high", strength=strength, scores="distribution", relative_top=relative_top)
    context = IDS[0].tolist()
    size = model.config.vocab_size
    found = dola.score(model, None, [context], [[[token] for token in range(size)]], {"it": config}, progress=False)
    log_p = torch.tensor(found.values["it"][0], dtype=torch.float64)
    assert log_p.exp().sum().item() == pytest.approx(1, abs=1e-5)
    with dola.attach(model, config):
        logits = model(IDS[:1]).logits[0, -1]
    torch.testing.assert_close(log_p, logits.double().log_softmax(dim=-1), atol=1e-4, rtol=0)
    if strength == 0:
        plain = dola.score(model, None, [context], [[[token] for token in range(size)]], {"it": None}, progress=False)
        assert plain.values == found.values, "at strength 0 they are the model's, exactly"


@torch.no_grad()
@pytest.mark.parametrize("relative_top", [0.0, 0.1])
@pytest.mark.parametrize(("control", "power"), [("flat", 0.0), ("sharp", 2.0)])
def test_controls_reshape_the_plausible_set_and_keep_its_mass(model, control, power, relative_top):
    context, size = IDS[0].tolist(), model.config.vocab_size
    recipe = Recipe(DoLaConfig("high", relative_top=relative_top), premature=control)
    found = dola.score(model, None, [context], [[[token] for token in range(size)]], {"it": recipe}, progress=False)
    p = model(IDS[:1]).logits[0, -1].double().softmax(dim=-1)
    inside = p >= relative_top * p.max()
    weights = torch.where(inside, p**power, 0)
    expected = torch.where(inside, p[inside].sum() * weights / weights.sum(), p)
    torch.testing.assert_close(torch.tensor(found.values["it"][0]).double().exp(), expected, atol=1e-6, rtol=1e-4)
    assert found.layers["it"] == [{}]
    best = expected == expected.max() if power else inside
    assert found.greedy["it"] == [best.tolist()]


def test_a_distribution_takes_no_second_normalization():
    with pytest.raises(dola.errors.ConfigError, match="normalized already"):
        Recipe(DoLaConfig(scores="distribution"), softmax="none")
