"""Strength and proper distributions: against a judge in float64, plain decoding at strength 0, and every faster form alike."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from families import spread_logits, tiny
from reference import distribution_float64, dola_float64
from workers import together

import dola
from dola import DoLaConfig, Recipe, native
from dola.decoding.candidates import Captured
from dola.decoding.reading import Reading
from dola.decoding.step import Step
from dola.doctor.checks import contrast_error
from dola.errors import ConfigError
from dola.methods.contrast import LARGEST_SCORE, contrast, gain, plausible
from dola.methods.registry import method_of
from dola.methods.vocabulary import Shard
from dola.model.readout import Readout
from dola.tracing.data import LayerTrace

STRENGTHS = [0, 0.25, 1.0, 3.0]
KINDS = ["contrast", "distribution"]
IDS = torch.tensor([[5, 17, 200, 33, 8, 91, 4], [9, 3, 44, 8, 61, 7, 7]])


def example(vocab: int, candidates: int = 3, rows: int = 4, seed: int = 0, scale: float = 3.0) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(seed)
    mature = scale * torch.randn(rows, vocab, generator=generator, dtype=torch.float64)
    return mature, scale * torch.randn(candidates, rows, vocab, generator=generator, dtype=torch.float64)


def judged(mature: Any, premature: Any, kind: str, *how: Any) -> Any:
    judge = getattr(distribution_float64, kind)
    rows = [judge(row.tolist(), premature[:, i].tolist(), *how) for i, row in enumerate(mature)]
    return torch.tensor(rows, dtype=torch.float64)


def spread(name: str = "llama") -> Any:
    """A tiny model whose distributions are peaked, with sets of one and of several plausible tokens."""
    model = tiny(name)
    spread_logits(model, {"input_ids": IDS})
    return model


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("relative_top", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("vocab", [1, 2, 41, 401])
def test_the_definition_equals_the_float64_judge(vocab, relative_top, strength):
    mature, premature = example(vocab, seed=vocab)
    how = {"relative_top": relative_top, "strength": strength}
    scores = contrast(mature, premature, **how)
    inside = plausible(mature, relative_top)
    expected = judged(mature, premature, "contrast", relative_top, strength)
    torch.testing.assert_close(scores[inside], expected[inside], atol=1e-12, rtol=1e-12)
    logits = contrast(mature, premature, **how, scores="distribution")
    expected = judged(mature, premature, "distribution", relative_top, strength)
    torch.testing.assert_close(logits.softmax(-1), expected, atol=1e-12, rtol=1e-10)
    # On the mature scale: outside the set the model's own logits, inside the same mass.
    assert torch.equal(logits[~inside], mature[~inside])
    mass = [values.masked_fill(~inside, -torch.inf).logsumexp(-1) for values in (logits, mature)]
    torch.testing.assert_close(*mass, atol=1e-12, rtol=0)
    assert torch.equal(logits.argmax(-1), scores.argmax(-1))


def test_a_distribution_sums_to_one():
    mature, premature = example(5000, scale=6)
    for strength, top in itertools.product([0, 0.5, 1.0, 20.0], [0.0, 0.1, 1.0]):
        logits = contrast(mature, premature, relative_top=top, strength=strength, scores="distribution")
        p = (logits - mature.logsumexp(-1, keepdim=True)).exp()  # by the model's own normalizer: no softmax to hide an error
        assert (p.sum(-1) - 1).abs().max() < 1e-12


def test_strength_0_and_a_single_plausible_token_leave_the_models_own_logits_bit_for_bit():
    mature, premature = (values.float() for values in example(401))
    assert torch.equal(contrast(mature, premature, strength=0, scores="distribution"), mature)
    mature[:2, 7] += 60
    alone = plausible(mature).sum(-1) == 1
    assert alone.any()
    assert torch.equal(contrast(mature, premature, scores="distribution")[alone], mature[alone])
    assert contrast(mature.bfloat16(), premature.bfloat16(), strength=0, scores="distribution").dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strength", [0, 1e-9, 1.0, 7, 1e6, 1e29, 1e38, 1e300, 10**400])
def test_what_the_premature_layer_excludes_makes_no_nan(strength, dtype):
    mature = torch.tensor([[0.0, 0.0, -3.0, -torch.inf]], dtype=dtype)
    premature = torch.tensor([[[0.0, -torch.inf, -torch.inf, -torch.inf]]], dtype=dtype)
    for kind, top in itertools.product(KINDS, [0.0, 0.1]):
        scores = contrast(mature, premature, relative_top=top, strength=strength, scores=kind)
        assert not scores.isnan().any()
        assert (scores <= LARGEST_SCORE * 1.01).all()
    assert torch.equal(gain(mature, premature[0], 0), mature)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("relative_top", [0.0, 0.1])
@pytest.mark.parametrize("divergence", ["jsd", "reference"])
def test_the_step_on_a_cpu_equals_the_definition(kind, strength, lazy, relative_top, divergence):
    mature, premature = (values.float() for values in example(401, rows=6))
    mature[:2, 7] += 60
    how = {"relative_top": relative_top, "strength": strength, "scores": kind, "divergence": divergence}
    step = Step(Readout(None, None, torch.nn.Identity()), DoLaConfig("high", **how))
    scores = step.scores(mature, Reading(torch.cat([mature[None], premature])), lazy=lazy)
    expected = contrast(mature, premature, **how)
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))
    if lazy and kind == "contrast":  # a settled row keeps its choice, whatever its score
        rows = plausible(mature, relative_top).sum(-1) > 1
        scores, expected = scores[rows], expected[rows]
    torch.testing.assert_close(scores, expected, atol=3e-5, rtol=1e-5)
    if kind == "distribution" and (relative_top or strength == 0):  # left unread, though scores are asked for
        assert step.rows_saved == (6 if strength == 0 else 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("workers", [2, 3])
@pytest.mark.parametrize("lazy", [False, True])
def test_workers_that_share_out_the_vocabulary_find_what_one_finds(kind, strength, workers, lazy):
    vocab = 40
    mature, premature = example(vocab)
    mature[0, 3] += 60
    config = DoLaConfig("high", strength=strength, scores=kind, divergence="jsd")
    width = -(-vocab // workers)

    def columns(logits: Any, rank: int) -> Any:
        mine = logits[..., rank * width : (rank + 1) * width]
        return torch.nn.functional.pad(mine, (0, width - mine.shape[-1]), value=-math.inf)

    def work(rank: int, gather: Any) -> Any:
        states = [columns(layer, rank) for layer in premature]
        candidates = Captured(Readout(None, None, torch.nn.Identity()), config, states)
        method, mine = method_of(config), columns(mature, rank)
        return method.scores(mine, candidates, Shard(gather), lazy=lazy), method.settled(mine, Shard(gather))

    found = together(workers, work)
    scores = torch.cat([scores for scores, _ in found], dim=-1)[:, :vocab]
    how = {"strength": strength, "scores": kind}
    expected = contrast(mature, premature, **how)
    alone = plausible(mature).sum(-1) == 1
    rows = ~alone if lazy and kind == "contrast" else torch.ones_like(alone)
    torch.testing.assert_close(scores[rows], expected[rows], atol=1e-9, rtol=1e-9)
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))
    for _, settled in found:
        assert torch.equal(settled, alone)


@pytest.mark.skipif(native.why_not() is not None, reason="no compiled kernel here")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0, 2.7])
def test_the_kernel_has_the_gain_of_any_strength(strength, dtype):
    mature, premature = (values.to(dtype) for values in example(1271))
    found = native.compare(
        mature, native.log_z(mature), premature[0], jsd=False, reference=False, gains=True, strength=strength
    )
    log_p, log_q = mature.double().log_softmax(-1), premature[0].double().log_softmax(-1)
    expected = gain(log_p, log_q, strength)
    torch.testing.assert_close(found.gain_log_z.double(), expected.logsumexp(-1), atol=2e-5, rtol=2e-5)
    torch.testing.assert_close(found.gain_largest.double(), expected.amax(-1), atol=2e-5, rtol=2e-5)
    # Rounded as torch rounds it, so that the likeliest token is the likeliest.
    by_torch = gain(mature.float() - native.log_z(mature)[:, None], premature[0].float() - found.log_z[:, None], strength)
    assert torch.equal(found.gain_largest, by_torch.amax(-1))


CALLS: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "penalty": {"do_sample": False, "repetition_penalty": 1.5},
    "bias": {"do_sample": False, "sequence_bias": {(7,): 4.0, (5,): -6.0}},
    "bans": {"do_sample": False, "bad_words_ids": [[7], [4], [8], [33]], "min_new_tokens": 10},
    "sampling": {"do_sample": True, "top_k": 20, "temperature": 1.3, "repetition_penalty": 1.2},
    "beams": {"do_sample": False, "num_beams": 3, "repetition_penalty": 1.2},
}


def tokens(model: Any, config: Any, inputs: Any, call: dict[str, Any], count: int = 12) -> Any:
    torch.manual_seed(7)
    run = {**inputs, "max_new_tokens": count, "pad_token_id": 0, **call}
    return model.generate(**run) if config is None else dola.generate(model, **run, dola_layers=config)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("relative_top", [0.0, 0.1])
def test_strength_0_decodes_what_the_model_decodes(name, call, relative_top):
    model = spread(name)
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    config = DoLaConfig("all", strength=0, scores="distribution", relative_top=relative_top)
    expected = tokens(model, None, inputs, CALLS[call])
    assert torch.equal(tokens(model, config, inputs, CALLS[call]), expected)


def test_a_ban_of_every_plausible_token_leaves_the_models_own_order():
    model = spread()
    config = DoLaConfig("all", scores="distribution", relative_top=0.3)
    with torch.no_grad():
        row = model(IDS[:1]).logits[0, -1].float()
    banned = plausible(row, 0.3).nonzero()[:, 0].tolist()
    inputs = {"input_ids": IDS[:1], "attention_mask": torch.ones_like(IDS[:1])}
    found = tokens(model, config, inputs, {"do_sample": False, "suppress_tokens": banned}, count=1)[0, -1]
    row[banned] = -torch.inf
    assert int(found) == int(row.argmax())
    assert method_of(config).support(row[None]).all()


def test_under_a_prefix_function_no_banned_token_is_ever_decoded():
    model, allowed = spread(), [3, 50, 77, 101]
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    for strength in (0.5, 1.0, 4.0):
        config = DoLaConfig("all", scores="distribution", strength=strength)
        for how in ({"do_sample": True}, {"do_sample": False}, {"do_sample": False, "num_beams": 2}):
            call = {**how, "prefix_allowed_tokens_fn": lambda *_: allowed, "eos_token_id": None}
            made = tokens(model, config, inputs, call)[:, IDS.shape[1] :]
            assert set(made.flatten().tolist()) <= set(allowed)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_greedy_tokens_are_those_of_the_contrast(strength):
    model = spread()
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    found = [tokens(model, DoLaConfig("all", strength=strength, scores=kind), inputs, {"do_sample": False}) for kind in KINDS]
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_are_their_own(kind):
    model = spread()
    config = DoLaConfig("all", strength=0.5, scores=kind)
    with dola.attach(model, config), torch.no_grad():
        together_ = model(IDS).logits
        for row, ids in zip(together_, IDS, strict=True):
            torch.testing.assert_close(model(ids[None]).logits[0], row, atol=2e-4, rtol=1e-4)


def test_scores_and_probabilities_at_strength_0_are_the_models_own():
    model = spread()
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
    call = {"do_sample": False, "return_dict_in_generate": True, "output_scores": True, "repetition_penalty": 1.3}
    config = DoLaConfig("all", strength=0, scores="distribution")
    plain, ours = (tokens(model, given, inputs, call) for given in (None, config))
    for expected, found in zip(plain.scores, ours.scores, strict=True):
        assert torch.equal(found, expected)


# Scores of given tokens.


def every_token(model: Any, config: Any, context: list[int]) -> Any:
    vocab = model.config.vocab_size
    scores = dola.score(model, None, [context], [[[token] for token in range(vocab)]], {"way": config}, progress=False)
    return torch.tensor(scores.values["way"][0], dtype=torch.float64), scores


@pytest.mark.parametrize("relative_top", [0.0, 0.1])
@pytest.mark.parametrize("strength", [0, 0.5, 1.0])
@pytest.mark.parametrize("kernels", [True, False])
def test_scores_over_the_whole_vocabulary_are_a_distribution(strength, relative_top, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setattr(native, "why_not", lambda: "switched off by this test")
    model = spread()
    config = DoLaConfig("all", strength=strength, relative_top=relative_top, scores="distribution")
    values, scores = every_token(model, config, IDS[0].tolist())
    assert float(values.exp().sum()) == pytest.approx(1, abs=1e-5)
    with dola.attach(model, config), torch.no_grad():
        expected = model(IDS[:1]).logits[0, -1].double().log_softmax(-1)
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-5)
    assert [i for i, is_greedy in enumerate(scores.greedy["way"][0]) if is_greedy] == [int(expected.argmax())]
    if strength == 0:
        torch.testing.assert_close(values, every_token(model, None, IDS[0].tolist())[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("strength", [0, 0.5, 2.0])
@pytest.mark.parametrize("relative_top", [0.0, 0.1])
def test_scores_of_a_contrast_with_a_strength(strength, relative_top):
    model = spread()
    config = DoLaConfig("all", strength=strength, relative_top=relative_top)
    values, scores = every_token(model, config, IDS[0].tolist())
    with dola.attach(model, config), torch.no_grad():
        expected = model(IDS[:1]).logits[0, -1].double().log_softmax(-1)
    torch.testing.assert_close(values, expected, atol=3e-3, rtol=1e-4)
    assert [i for i, is_greedy in enumerate(scores.greedy["way"][0]) if is_greedy] == [int(expected.argmax())]


def test_recipes_of_several_strengths_in_one_pass_are_each_by_itself(llama):
    configs: dict[str, Any] = {
        f"{kind} {strength} {top}": DoLaConfig("high", strength=strength, scores=kind, relative_top=top)
        for kind, strength, top in itertools.product(KINDS, [0.25, 0.5, 1.0], [0.0, 0.1])
    }
    configs["random"] = Recipe(DoLaConfig("all", strength=0.5, scores="distribution"), premature="random")
    configs["not normalized"] = Recipe(DoLaConfig("high", strength=0.5), softmax="none")
    texts = [IDS[0].tolist()], [[[3, 9, 12], [44]]]
    together_ = dola.score(llama, None, *texts, configs, progress=False)
    for name, config in configs.items():
        alone = dola.score(llama, None, *texts, {name: config}, progress=False)
        assert together_.values[name][0] == pytest.approx(alone.values[name][0], abs=1e-9)


def test_without_a_layer_a_distribution_is_the_models_own(llama):
    recipe = Recipe(DoLaConfig("high", scores="distribution"), premature="none")
    texts = [IDS[0].tolist()], [[[3, 9, 12], [44]]]
    scores = dola.score(llama, None, *texts, {"none": recipe, "vanilla": None}, progress=False)
    assert scores.values["none"][0] == pytest.approx(scores.values["vanilla"][0], abs=1e-5)


def test_a_distribution_is_not_normalized_again():
    for softmax in ("full", "none"):
        with pytest.raises(ConfigError, match="a distribution is normalized already"):
            Recipe(DoLaConfig(scores="distribution"), softmax=softmax)


# Settings.


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, "1", None, True])
def test_bad_strength(value):
    with pytest.raises(ConfigError, match=r"strength=.* allowed is 0 or more") as error:
        DoLaConfig(strength=value)
    assert "strength=1.0" in error.value.hint


def test_bad_scores():
    with pytest.raises(ConfigError, match=r"scores='logits' is unknown; allowed are 'contrast', 'distribution'"):
        DoLaConfig(scores="logits")


def test_files_hold_both(tmp_path):
    path = tmp_path / "config.json"
    path.write_text('{"layers": "high", "strength": 0.5, "scores": "distribution"}')
    assert DoLaConfig.from_file(path) == DoLaConfig("high", strength=0.5, scores="distribution")


def test_the_doctors_check_knows_both(llama):
    mature, premature = example(401, rows=1)
    for kind, strength in itertools.product(KINDS, STRENGTHS):
        config = DoLaConfig("high", strength=strength, scores=kind)
        scores = contrast(mature[0], premature[:, 0], strength=strength, scores=kind)
        assert contrast_error(scores, mature[0], premature[:, 0], config, 1e-6) < 1e-9
        if strength:
            other = replace(config, strength=strength / 2)
            assert contrast_error(scores, mature[0], premature[:, 0], other, 1e-6) > 1e-3


# Traces.


@pytest.mark.parametrize("kind", KINDS)
def test_a_trace_holds_what_any_strength_needs(kind):
    model = spread()
    recorded = DoLaConfig("all", strength=0.5, scores=kind)
    from words import word_tokenizer

    trace = dola.trace(model, word_tokenizer(), IDS[0].tolist(), recorded)
    assert trace.settings["strength"] == 0.5
    assert trace.settings["scores"] == kind
    for token in trace.tokens:
        assert (token.plausible_count == 1) == token.lazy
        for each in token.plausible:
            assert each.contrast == pytest.approx(each.log_p - 0.5 * each.log_q, abs=1e-4)
            assert math.exp(each.log_p) == pytest.approx(each.probability[-1], rel=1e-4)
            assert math.exp(each.log_q) == pytest.approx(each.probability[token.layer], rel=1e-4)
    again = LayerTrace.from_json(trace.to_json())
    assert again == trace
    assert any("at strength 0.5" in trace.explain(i) for i in range(len(trace.tokens)))


def test_a_trace_of_an_earlier_version_opens(llama):
    from words import word_tokenizer

    found = json.loads(dola.trace(llama, word_tokenizer(), IDS[0].tolist(), "high").to_json())
    for name in ("strength", "scores"):
        del found["settings"][name]
    for token in found["tokens"]:
        for each in token["plausible"]:
            del each["log_p"], each["log_q"]
    opened = LayerTrace.from_value(found)
    assert opened.tokens[0].plausible[0].log_p is None
    assert opened.config == DoLaConfig("high")
    assert "gained most" in " ".join(opened.explain(i) for i in range(len(opened.tokens))) or opened.explain(0)


def test_the_judge_by_hand():
    p = [math.log(x) for x in (0.5, 0.3, 0.15, 0.05)]
    uniform = [0.0] * 4
    assert distribution_float64.distribution(p, [uniform], 0.2, 0) == pytest.approx([0.5, 0.3, 0.15, 0.05])
    assert distribution_float64.distribution(p, [uniform], 0.2, 3) == pytest.approx([0.5, 0.3, 0.15, 0.05])  # a constant
    same = distribution_float64.distribution(p, [p], 0.2, 1)
    assert same == pytest.approx([0.95 / 3] * 3 + [0.05])  # nothing was gained: equal shares of the set's mass
    assert distribution_float64.contrast(p, [uniform], 0.2, 1) == dola_float64.contrast(p, [uniform], 0.2)
