"""Forwards of the decoding model inside its own `generate` call: those of processors and stopping criteria are plain."""

from __future__ import annotations

import pytest
import torch
from families import tiny
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, UnbatchedClassifierFreeGuidanceLogitsProcessor

import dola
from dola.contrast import contrast

CALL = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
CONTEXT = torch.tensor([[7, 7, 90, 12, 55]])
DOORS = {
    "attach": lambda model, **call: attached(model, **call),
    "generate": lambda model, **call: dola.generate(model, dola_layers="high", **call),
}


def attached(model, **call):
    with dola.attach(model, "high"):
        return model.generate(**call)


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


class ContextAware(LogitsProcessor):
    """Scores without a context, subtracted: (1 + a) s(x | context) - a s(x)."""

    def __init__(self, model):
        self.model, self.seen = model, []

    def __call__(self, input_ids, scores):
        self.seen.append(self.model(input_ids[:, -3:]).logits[:, -1])
        return 1.5 * scores.log_softmax(-1) - 0.5 * self.seen[-1].log_softmax(-1)


def by_hand(model, ids, combine):
    """Greedy decoding by a loop: the contrast of the whole text, combined with plain logits of whatever `combine` runs."""
    for _ in range(CALL["max_new_tokens"]):
        with dola.attach(model, "high"):
            scores = model(ids).logits[:, -1]
        ids = torch.cat([ids, combine(ids, scores).argmax(-1, keepdim=True)], dim=1)
    return ids


@pytest.mark.parametrize("door", DOORS)
def test_context_aware_decoding_reads_plain_logits(model, ids, door):
    processor = ContextAware(model)
    found = DOORS[door](model, inputs=ids, logits_processor=LogitsProcessorList([processor]), **CALL)
    for step, seen in enumerate(processor.seen):
        torch.testing.assert_close(seen, model(found[:, : ids.shape[1] + step][:, -3:]).logits[:, -1])
    assert torch.equal(found, by_hand(model, ids, ContextAware(model)))


def guided(model):
    """Classifier-free guidance with nothing but the last token as the unconditional prompt, as transformers has it."""

    def combine(ids, scores):
        unconditional = model(ids[:, start - 1 :]).logits[:, -1].log_softmax(-1)
        return 1.5 * (scores.log_softmax(-1) - unconditional) + unconditional

    start = 7
    return combine


@pytest.mark.parametrize("how", ["guidance_scale", "processor"])
@pytest.mark.parametrize("door", DOORS)
def test_guidance_reads_plain_unconditional_logits(model, ids, door, how):
    if how == "guidance_scale":
        extra = {"guidance_scale": 1.5}
    else:
        extra = {"logits_processor": LogitsProcessorList([UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, model)])}
    found = DOORS[door](model, inputs=ids, output_scores=True, return_dict_in_generate=True, **extra, **CALL)
    assert torch.equal(found.sequences, by_hand(model, ids, guided(model)))
    assert max(scores.max() for scores in found.scores) < 100


@pytest.mark.parametrize("door", DOORS)
def test_guidance_with_a_negative_prompt(model, ids, door):
    def combine(text, scores):
        unconditional = model(torch.cat([CONTEXT, text[:, ids.shape[1] :]], dim=1)).logits[:, -1].log_softmax(-1)
        return 1.3 * (scores.log_softmax(-1) - unconditional) + unconditional

    found = DOORS[door](model, inputs=ids, guidance_scale=1.3, negative_prompt_ids=CONTEXT, **CALL)
    assert torch.equal(found, by_hand(model, ids, combine))


@pytest.mark.parametrize("door", DOORS)
def test_stopping_criteria_that_run_the_model_see_plain_logits(model, ids, door):
    seen = []

    class Confident(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append((input_ids.clone(), model(input_ids).logits))
            return torch.zeros(len(input_ids), dtype=torch.bool)

    found = DOORS[door](model, inputs=ids, stopping_criteria=[Confident()], **CALL)
    assert torch.equal(found, DOORS[door](model, inputs=ids, **CALL))
    assert len(seen) == CALL["max_new_tokens"]
    for text, logits in seen:
        torch.testing.assert_close(logits, model(text).logits)


@pytest.mark.parametrize("how", ["wrapper", "in place"])
def test_a_compiled_model_gives_a_processor_plain_logits_too(ids, how):
    model = tiny("llama")
    if how == "in place":
        model.compile(backend="eager")
    compiled = torch.compile(model, backend="eager") if how == "wrapper" else model
    plain = tiny("llama")(ids).logits
    seen = []

    class Looks(LogitsProcessor):
        def __call__(self, input_ids, scores):
            seen.append(compiled(ids).logits)
            return scores

    with dola.attach(model, "high"):
        contrasted = compiled(ids).logits
        model.generate(ids, logits_processor=LogitsProcessorList([Looks()]), **CALL)
    assert (contrasted - plain).abs().max() > 100
    for logits in seen:
        torch.testing.assert_close(logits, plain, rtol=1e-4, atol=1e-4)


def test_a_masked_row_with_such_a_processor_is_decided_or_refused(model, ids):
    """The processor must not run twice, because it may keep state from its forwards."""
    with dola.attach(model, "high"):
        scores = model(ids).logits[0, -1]
    kept = (scores > -500).nonzero()[:, 0].tolist()
    call = {**CALL, "max_new_tokens": 1, "guidance_scale": 1.5, "bad_words_ids": [[token] for token in kept]}
    with pytest.raises(dola.DolaError, match="UnbatchedClassifierFreeGuidanceLogitsProcessor runs the model"):
        dola.generate(model, ids, dola_layers="high", **call)


def test_a_direct_call_of_an_attached_model_stays_contrasted(model, ids):
    with dola.attach(model, "high"):
        direct = model(ids).logits
    states = model(ids, output_hidden_states=True).hidden_states
    premature = torch.stack([model.lm_head(model.model.norm(states[layer])) for layer in (3, 5)])
    torch.testing.assert_close(direct, contrast(model(ids).logits, premature), rtol=1e-4, atol=1e-4)


def test_a_generate_call_of_a_processor_is_plain_and_leaves_the_outer_call_alone(model, ids):
    """Both calls use the same methods of the model; the outer call keeps its own results and bans."""
    plain = model.generate(ids, **CALL)
    inner = []

    class Asks(LogitsProcessor):
        def __call__(self, input_ids, scores):
            inner.append(model.generate(ids, **CALL))
            return scores

    class Bans(LogitsProcessor):
        def __call__(self, input_ids, scores):
            return scores.masked_fill(banned, -torch.inf)

    with dola.attach(model, "high"):
        banned = (model(ids).logits[:, -1] > -500).any(dim=0)
    call = {**CALL, "inputs": ids, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    for door in DOORS.values():
        expected = door(model, logits_processor=[Bans()], **call)
        found = door(model, logits_processor=[Asks(), Bans()], **call)
        assert torch.equal(found.sequences, expected.sequences)
        for which in ("scores", "logits"):
            torch.testing.assert_close(found[which], expected[which])
    assert len(inner) == 2 * CALL["max_new_tokens"]
    assert all(torch.equal(tokens, plain) for tokens in inner)


def test_a_generate_call_of_a_processor_that_asks_for_layers_gets_them(model, ids):
    inner = []
    expected = dola.generate(model, ids, dola_layers="low", **CALL)

    class Asks(LogitsProcessor):
        def __call__(self, input_ids, scores):
            inner.append(model.generate(ids, dola_layers="low", **CALL))
            return scores

    dola.install()
    try:
        model.generate(ids, dola_layers="high", logits_processor=[Asks()], **{**CALL, "max_new_tokens": 1})
    finally:
        dola.uninstall()
    with dola.attach(model, "low"):
        model.generate(ids, logits_processor=[Asks()], **{**CALL, "max_new_tokens": 1})
    assert len(inner) == 2
    assert all(torch.equal(tokens, expected) for tokens in inner)
