"""Additive forcing: a bias by which plain decoding would choose a token makes DoLa choose it. Any other bias stays a bias."""

from __future__ import annotations

import math

import pytest
import torch
from families import tiny
from transformers import LogitsProcessor, LogitsProcessorList

import dola

CALL = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
PROMPTS = torch.tensor([[5, 17, 200, 33, 8, 91, 4], [9, 9, 31, 6, 77, 3, 250]])


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


def rule(model, ids, biases, penalty=1.0):
    """The rule in plain loops and float64, token by token: mature scores under the same biases decide a row in which they would
    choose a token that is not plausible; in all other rows the biases are put on the contrast."""
    ids = ids.clone()
    for _ in range(CALL["max_new_tokens"]):
        mature = model(ids).logits[:, -1].double()
        with dola.attach(model, "high"):
            scores = model(ids).logits[:, -1].double()
        chosen = []
        for row in range(len(ids)):
            inside = mature[row] >= mature[row].max() + math.log(0.1)
            plain = mature[row].clone()
            for token, value in biases.items():
                plain[token] += value
            basis = mature[row] if not inside[plain.argmax()] else scores[row]
            for token, value in biases.items():
                basis[token] += value
            for token in set(ids[row].tolist()):  # transformers puts the penalty after the biases
                basis[token] *= penalty if basis[token] < 0 else 1 / penalty
            chosen.append(int(basis.argmax()))
        ids = torch.cat([ids, torch.tensor(chosen)[:, None]], dim=1)
    return ids


def sequence_bias(biases):
    return {(token,): value for token, value in biases.items()}


BIASES = {
    "one token forced": {321: 100.0},
    "a bias that forces nothing": {321: 0.5},
    "two tokens, the larger wins": {321: 100.0, 111: 101.0},
    "lifted and pushed down": {321: 60.0, 17: -100.0},
    "pushed down alone": {17: -100.0, 33: -5.0},
    "just below and just above": {321: 9.0, 111: 12.0},
}


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("biases", BIASES.values(), ids=BIASES)
def test_sequence_bias_follows_the_rule(model, biases, penalty):
    call = {**CALL, "sequence_bias": sequence_bias(biases), "repetition_penalty": penalty}
    with dola.attach(model, "high"):
        attached = model.generate(PROMPTS, **call)
    assert torch.equal(attached, dola.generate(model, PROMPTS, dola_layers="high", **call))
    assert torch.equal(attached, rule(model, PROMPTS, biases, penalty))
    for row in range(len(PROMPTS)):  # whatever else is in the batch
        assert torch.equal(dola.generate(model, PROMPTS[row : row + 1], dola_layers="high", **call)[0], attached[row])


def test_a_forced_label_is_chosen_as_without_dola(model):
    call = {**CALL, "max_new_tokens": 1, "sequence_bias": {(321,): 100.0}}
    assert model.generate(PROMPTS, **call)[:, -1].tolist() == [321, 321]
    assert dola.generate(model, PROMPTS, dola_layers="high", **call)[:, -1].tolist() == [321, 321]


@pytest.mark.parametrize(
    "settings", [{"num_beams": 3}, {"do_sample": True, "temperature": 0.7}, {"do_sample": True, "top_k": 5}]
)
def test_beams_and_sampling_follow_a_forcing_bias(model, settings):
    call = {**CALL, "sequence_bias": {(321,): 100.0}, **settings}
    assert (dola.generate(model, PROMPTS, dola_layers="high", **call)[:, 7:] == 321).all()


class ForceAt(LogitsProcessor):
    """Forces a token at its n-th call: it counts its calls, so that one call too many would force too early."""

    def __init__(self, step, how):
        self.step, self.how, self.calls = step, how, 0

    def __call__(self, input_ids, scores):
        self.calls += 1
        if self.calls == self.step:
            scores[:, 321] = scores.amax(dim=-1) + 1 if self.how == "set" else scores[:, 321] + 100
        else:
            scores[:, 322] += 0.01
        return scores


@pytest.mark.parametrize("how", ["add", "set"])
def test_a_processor_that_counts_its_calls_is_asked_once_a_step(model, how):
    processor = ForceAt(3, how)
    found = dola.generate(model, PROMPTS, dola_layers="high", logits_processor=LogitsProcessorList([processor]), **CALL)
    assert processor.calls == CALL["max_new_tokens"]
    assert (found[:, 9] == 321).all()
    assert (found[:, [7, 8, 10, 11]] != 321).all()


class Cooler(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores / 2


def test_a_processor_that_scales_forces_nothing(model):
    """It raises all implausible tokens by hundreds."""
    plain = dola.generate(model, PROMPTS, dola_layers="high", **CALL)
    found = dola.generate(model, PROMPTS, dola_layers="high", logits_processor=LogitsProcessorList([Cooler()]), **CALL)
    assert torch.equal(found, plain)


def test_a_penalty_alone_forces_nothing(model):
    """With it plain decoding would choose an implausible token, but the paper's DoLa does not."""
    ids = PROMPTS[:1]
    call = {**CALL, "repetition_penalty": 50.0}
    with dola.attach(model, "high"):
        scores = model(ids).logits[0, -1]
    token = int(model.generate(ids, **call)[0, 7])
    assert int(dola.generate(model, ids, dola_layers="high", **call)[0, 7]) != token or scores[token] > -500


class Fixed(LogitsProcessor):
    """Adds to all scores the same numbers."""

    def __init__(self, added):
        self.added = added

    def __call__(self, input_ids, scores):
        return scores + self.added


def added(biases):
    row = torch.zeros(401)
    row[list(biases)] = torch.tensor(list(biases.values()))
    return Fixed(row)


BANNED = -math.inf
CHAINS = {
    "forced and then banned": [{321: 100.0}, {321: BANNED}],
    "banned and then forced": [{321: BANNED}, {321: 100.0}],
    "forced, another forced, the first banned": [{321: 100.0}, {111: 90.0}, {321: BANNED}],
    "both banned at last": [{321: 100.0}, {111: 110.0}, {321: BANNED}, {111: BANNED}],
    "forced, given back, forced": [{321: 100.0}, {321: BANNED}, {222: 100.0}],
}


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_the_choice_under_all_biases_and_bans_decides(model, chain, penalty):
    together = {}
    for biases in chain:
        for token, value in biases.items():
            together[token] = together.get(token, 0.0) + value
    processors = LogitsProcessorList([added(biases) for biases in chain])
    # The penalty is a processor of transformers, before these; on tokens that no bias is for, the order is one.
    call = {**CALL, "max_new_tokens": 3, "repetition_penalty": penalty, "logits_processor": processors}
    found = dola.generate(model, PROMPTS, dola_layers="high", **call)
    assert torch.equal(found, rule(model, PROMPTS, together, penalty)[:, : found.shape[1]])


def test_an_end_token_that_is_lifted_and_may_not_come_yet_changes_nothing(model):
    """A common combination: a likelier end token and a minimum length."""
    call = {**CALL, "eos_token_id": 321, "min_new_tokens": 4}
    expected = dola.generate(model, PROMPTS, dola_layers="high", **call)
    found = dola.generate(model, PROMPTS, dola_layers="high", sequence_bias={(321,): 100.0}, **call)
    assert torch.equal(found[:, :11], expected[:, :11])
    assert found[:, 11].tolist() == [321, 321]


class Counts(LogitsProcessor):
    """Forces token 300 + n at its n-th call. `keep` says where it keeps the number."""

    def __init__(self, keep):
        self.keep, self.number, self.seen, self.inside = keep, 0, [], Inside()

    def __call__(self, input_ids, scores):
        self.number += 1
        self.seen.append(None)
        self.inside.number += 1
        calls = {"number": self.number, "list": len(self.seen), "object": self.inside.number}[self.keep]
        scores = scores.clone()
        scores[:, 300 + calls] += 100
        return scores


class Inside:
    number = 0


@pytest.mark.parametrize("keep", ["number", "list", "object"])
def test_a_state_that_a_processor_keeps_moves_on_once_a_step(model, keep):
    found = dola.generate(model, PROMPTS, dola_layers="high", logits_processor=[Counts(keep)], **CALL)
    assert found[0, 7:].tolist() == [301, 302, 303, 304, 305]


class Unruly(LogitsProcessor):
    """Holds what cannot be copied."""

    def __init__(self):
        self.generator = (number for number in range(100))

    def __call__(self, input_ids, scores):
        next(self.generator)
        return scores + added({321: 100.0}).added


def test_what_cannot_be_copied_is_shared(model):
    found = dola.generate(model, PROMPTS, dola_layers="high", logits_processor=[Unruly()], **CALL)
    assert (found[:, 7:] == 321).all()


def test_guidance_and_a_bias_are_refused_by_their_reason(model):
    call = {**CALL, "guidance_scale": 1.5, "sequence_bias": {(321,): 100.0}}
    with pytest.raises(dola.DolaError, match="a bias lifts another token"):
        dola.generate(model, PROMPTS, dola_layers="high", **call)


class BiasThenBan(LogitsProcessor):
    """Writes into its input: forces one token by a bias, and lifts another a little."""

    def __call__(self, input_ids, scores):
        scores[:, 321] += 100
        scores[:, 17] += 3
        return scores


class Ban(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores.index_fill(-1, torch.tensor([321]), -torch.inf)


def test_a_bias_in_place_counts_once_where_the_forced_token_is_banned_later(model):
    """The contrast decides such a row, with the bias on it."""
    with dola.attach(model, "high"):
        contrast = model(PROMPTS).logits[:, -1]
    contrast[:, 17] += 3
    found = dola.generate(
        model,
        PROMPTS,
        dola_layers="high",
        logits_processor=LogitsProcessorList([BiasThenBan(), Ban()]),
        **{**CALL, "max_new_tokens": 1},
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert torch.equal(found.scores[0], contrast.index_fill(-1, torch.tensor([321]), -torch.inf))
