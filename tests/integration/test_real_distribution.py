"""Strength and distributions on a real model: a float64 recomputation, plain decoding at strength 0, likelihoods."""

import pytest
import torch
from reference import distribution_float64 as judge

import dola
from dola import DoLaConfig
from dola.model.anatomy import Anatomy
from dola.model.hidden import captured

PROMPT = "The capital of Washington State is"
LAYERS = (15, 21, 27)


@pytest.fixture(scope="module")
def rows(smollm2):
    """The logits of the last layer and of LAYERS after the last three tokens of the prompt, in float64, from hidden states."""
    model, tokenizer = smollm2
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    with torch.no_grad(), captured(Anatomy.of(model), [*LAYERS, 30]) as hidden:
        model(ids)
    states = {layer: each[0, -3:].double() for layer, each in hidden.items()}
    weight, scale = model.lm_head.weight.double(), model.model.norm.weight.double()
    epsilon = model.model.norm.variance_epsilon

    def read(x):
        return (scale * x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + epsilon)) @ weight.T

    with torch.no_grad():
        return ids, read(states[30]), [read(states[layer]) for layer in LAYERS]


@torch.no_grad()
@pytest.mark.parametrize("strength", [0.25, 1.0, 2.0])
def test_both_are_what_float64_makes_of_the_hidden_states(smollm2, rows, strength):
    ids, mature, premature = rows
    found = {}
    for scores in ("contrast", "distribution"):
        with dola.attach(smollm2.model, DoLaConfig(LAYERS, strength=strength, scores=scores)):
            found[scores] = smollm2.model(ids).logits[0, -3:].double()
    for row in range(3):
        layers = [layer[row].tolist() for layer in premature]
        gains = torch.tensor(judge.contrast(mature[row].tolist(), layers, strength), dtype=torch.float64)
        inside = gains.isfinite()
        torch.testing.assert_close(found["contrast"][row][inside], gains[inside], atol=2e-3, rtol=0)
        log_p = torch.tensor(judge.distribution(mature[row].tolist(), layers, strength), dtype=torch.float64).log()
        torch.testing.assert_close(found["distribution"][row].log_softmax(dim=-1), log_p, atol=2e-3, rtol=0)


@pytest.mark.parametrize(
    "mode",
    [
        {"do_sample": False, "repetition_penalty": 1.2, "sequence_bias": {(260,): 2.0}},
        {"do_sample": True, "temperature": 0.8, "top_k": 40},
        {"do_sample": False, "num_beams": 2},
    ],
    ids=["penalty and bias", "sampling", "beams"],
)
def test_at_strength_0_tokens_are_plain_decodings(smollm2, mode):
    model, tokenizer = smollm2
    call = {**tokenizer(PROMPT, return_tensors="pt"), "max_new_tokens": 8, "pad_token_id": tokenizer.eos_token_id, **mode}
    torch.manual_seed(1)
    plain = model.generate(**call)
    torch.manual_seed(1)
    ours = dola.generate(model, **call, dola_layers=DoLaConfig("high", strength=0, scores="distribution"))
    assert torch.equal(plain, ours)


def test_the_trace_and_the_step_say_the_same(smollm2):
    """The greedy tokens of a distribution are the contrast's, and a trace counts the plausible ones."""
    model, tokenizer = smollm2
    traces = [
        dola.trace(model, tokenizer, PROMPT, DoLaConfig("high", scores=scores), generate=4)
        for scores in ("contrast", "distribution")
    ]
    first, second = ([token.token for token in trace.tokens] for trace in traces)
    assert first == second
    assert [each.plausible_count for each in traces[0].tokens] == [each.plausible_count for each in traces[1].tokens]
