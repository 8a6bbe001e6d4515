"""On real weights: batches, order, padding; the readout; what bf16 may change."""

import copy
import math

import pytest
import torch

import dola
from dola import native
from dola.contrast import contrast, js_divergence, log_probs
from dola.decoding.step import Step
from dola.methods.layers import candidate_layers
from dola.model.anatomy import READOUT_TOLERANCE

PROMPTS = [
    "The capital of Washington State is",
    "Q: When did Wole Soyinka win the Nobel Prize in Literature?\nA:",
    "Paris",
    "On what date was the Declaration of Independence officially signed? It was",
    "def add(a, b):\n    return",
    "List three facts about the moon, and say for each of them how it was found out.\n1.",
    "Water boils at",
    "Once upon a time there was a fox who",
]
CONFIGS = {
    "high": dola.DoLaConfig("high"),
    "low": dola.DoLaConfig("low"),
    "static": dola.DoLaConfig([14]),
    "reference": dola.DoLaConfig.reference("high"),
    "eager, no constraint": dola.DoLaConfig("high", relative_top=0.0, lazy=False),
}
SETTINGS = {"do_sample": False, "max_new_tokens": 6, "repetition_penalty": 1.2}


def generate(model, tokenizer, prompts):
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    out = model.generate(**inputs, **SETTINGS, pad_token_id=tokenizer.pad_token_id)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_the_same_alone_in_a_batch_and_in_any_order(smollm2, name):
    with dola.attach(smollm2.model, CONFIGS[name]):
        alone = [generate(*smollm2, [prompt])[0] for prompt in PROMPTS]
        together = generate(*smollm2, PROMPTS)
        order = [3, 7, 1, 0, 6, 2, 5, 4]
        shuffled = generate(*smollm2, [PROMPTS[i] for i in order])
    for i, tokens in enumerate(alone):
        assert together[i][: len(tokens)] == tokens
        assert shuffled[order.index(i)][: len(tokens)] == tokens


@pytest.mark.parametrize("name", ["high", "low", "reference"])
def test_a_trace_is_of_the_contrast_that_generate_used(smollm2, name):
    """Its tokens are those of the fast step, and its contrasts are the scores that `generate` returns."""
    model, tokenizer = smollm2
    ids = tokenizer(PROMPTS[3], return_tensors="pt").input_ids
    trace = dola.trace(model, tokenizer, PROMPTS[3], CONFIGS[name], generate=6)
    call = {**SETTINGS, "attention_mask": torch.ones_like(ids), "pad_token_id": tokenizer.pad_token_id}
    fast = dola.generate(model, ids, dola_layers=CONFIGS[name], **call)
    scored = dola.generate(model, ids, dola_layers=CONFIGS[name], **call, return_dict_in_generate=True, output_scores=True)
    made = [token.token for token in trace.tokens]
    assert made == fast[0, ids.shape[1] :].tolist() == scored.sequences[0, ids.shape[1] :].tolist()
    before = ids[0].tolist()
    for token, (scores,) in zip(trace.tokens, scored.scores, strict=True):
        for each in token.plausible:
            score = float(scores[each.id])
            if each.id in before:  # undo the penalty
                score = score / 1.2 if score < 0 else score * 1.2
            assert each.contrast == pytest.approx(score, rel=1e-3, abs=0.01)
        before.append(token.token)


def test_gemma_tokens_are_the_same_alone_and_in_a_batch(gemma3):
    with dola.attach(gemma3.model, "high"):
        alone = [generate(*gemma3, [prompt])[0] for prompt in PROMPTS[:4]]
        together = generate(*gemma3, PROMPTS[:4])
    assert [row[: len(tokens)] for row, tokens in zip(together, alone, strict=True)] == alone


@pytest.mark.parametrize("alias", ["smollm2", "gemma3"])
def test_readout_of_the_last_layer(request, alias):
    model, tokenizer = request.getfixturevalue(alias)
    anatomy, seen = dola.Anatomy.of(model), []
    handle = anatomy.blocks[-1].register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        logits = model(**tokenizer(PROMPTS[0], return_tensors="pt")).logits
    handle.remove()
    assert anatomy.readout_error(seen[0], logits) < READOUT_TOLERANCE[torch.float32] / 100


def test_dola_changes_answers(smollm2):
    """A build that decodes plainly fails here."""
    plain = [generate(*smollm2, [prompt])[0] for prompt in PROMPTS[:3]]
    with dola.attach(smollm2.model, "high"):
        contrasted = [generate(*smollm2, [prompt])[0] for prompt in PROMPTS[:3]]
    assert plain != contrasted


def margins(model, ids):
    """How narrowly DoLa decided the token after `ids`: nats between the two best scores, between the two most divergent
    layers, and between the plausibility threshold and the token nearest to it."""
    with torch.no_grad():
        out = model(ids, output_hidden_states=True)
        anatomy = dola.Anatomy.of(model)
        layers = candidate_layers("high", anatomy.num_layers, tied=anatomy.tied)
        premature = anatomy.readout(torch.stack([out.hidden_states[j][0, -1:] for j in layers]))
    mature = out.logits[0, -1:]
    best = contrast(mature, premature).topk(2).values[0]
    divergence = js_divergence(mature, premature)[:, 0].topk(2).values
    below_top = log_probs(mature).amax() + math.log(0.1) - log_probs(mature)
    return float(best[0] - best[1]), float(divergence[0] - divergence[1]), float(below_top.abs().amin())


def test_in_bfloat16_a_batch_may_only_tip_what_was_nearly_a_tie(smollm2):
    """Rounding differs with the shape of a product, and the method takes three decisions that can tip: the token, the layer,
    and the edge of the plausible set. Tolerances in nats: 1.0, 0.02, 0.1."""
    model, tokenizer = copy.deepcopy(smollm2.model).to(torch.bfloat16), smollm2.tokenizer
    with dola.attach(model, "high"):
        alone = [generate(model, tokenizer, [prompt])[0] for prompt in PROMPTS[:4]]
        together = generate(model, tokenizer, PROMPTS[:4])
    assert_only_near_ties_tipped(model, tokenizer, PROMPTS, alone, together)


def assert_only_near_ties_tipped(model, tokenizer, prompts, expected, found):
    for prompt, one, row in zip(prompts, expected, found, strict=False):
        first = next((i for i, (a, b) in enumerate(zip(one, row, strict=False)) if a != b), None)
        if first is not None:
            ids = torch.tensor([tokenizer(prompt)["input_ids"] + one[:first]])
            token, layer, edge = margins(model, ids)
            assert token < 1.0 or layer < 0.02 or edge < 0.1, (prompt, first, token, layer, edge)


def slowly(monkeypatch):
    """The step without its short cuts: every layer through torch's own product, the contrast over the whole vocabulary."""

    def dense(mature, candidates, *, lazy, **settings):
        return contrast(mature, candidates.logits(), **settings)

    monkeypatch.setattr(native, "suits", lambda head: False)
    monkeypatch.setattr(Step, "_plan", lambda *args: False)
    monkeypatch.setattr("dola.methods.dola.sparse", dense)


@pytest.mark.parametrize("layers", ["high", "low"])
@pytest.mark.parametrize("alias", ["smollm2", "gemma3"])
def test_the_fast_step_gives_the_tokens_of_the_slow_one(request, monkeypatch, alias, layers):
    model, tokenizer = request.getfixturevalue(alias)
    with dola.attach(model, layers):
        fast = [generate(model, tokenizer, [prompt])[0] for prompt in PROMPTS[:4]]
        slowly(monkeypatch)
        assert [generate(model, tokenizer, [prompt])[0] for prompt in PROMPTS[:4]] == fast


def test_in_bfloat16_the_fast_step_tips_only_near_ties(smollm2, monkeypatch):
    model, tokenizer = copy.deepcopy(smollm2.model).to(torch.bfloat16), smollm2.tokenizer
    with dola.attach(model, "high"):
        fast = [generate(model, tokenizer, [prompt])[0] for prompt in PROMPTS]
        slowly(monkeypatch)
        slow = [generate(model, tokenizer, [prompt])[0] for prompt in PROMPTS]
    assert_only_near_ties_tipped(model, tokenizer, PROMPTS, slow, fast)


def test_a_lens_makes_layers_readable(smollm2):
    """Fitted on little text; the full figures are in docs/lens.md."""
    model, tokenizer = smollm2
    lens = dola.fit_lens(model, tokenizer, [prompt * 8 for prompt in PROMPTS], layers=[25], tokens=600)
    (row,) = lens.facts["table"]
    assert row["kl"] < row["norm_kl"]
