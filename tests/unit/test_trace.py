"""`dola.trace` against the float64 reference, and against what `generate` really did."""

import json
import math

import pytest
import torch
from command import tokenizer as byte_tokenizer
from families import FAMILIES, spread_logits, tiny
from families import readout as written_readout
from reference import dola_float64 as judge
from reference.methods_float64 import entropy
from words import word_tokenizer

import dola
from dola import DoLaConfig
from dola.decoding.step import CHUNK_ELEMENTS
from dola.errors import AttachError, InputError, LayersError, ReadoutError
from dola.model.anatomy import Anatomy
from dola.tracing.data import LayerTrace
from dola.tracing.reader import DIGITS

IDS = [5, 17, 200, 33, 8, 91, 4, 60, 61]
CONFIGS = {
    "high": DoLaConfig("high"),
    "low without norm": DoLaConfig("low", final_norm=False),
    "static": DoLaConfig([3]),
    "all": DoLaConfig("all", relative_top=0.3, divergence="reference"),
    "old": DoLaConfig.reference("high"),
}


def traced(model, config="high", ids=IDS, **settings):
    return dola.trace(model, word_tokenizer(), ids, config, **settings)


@torch.no_grad()
def layer_logits(model, family, config, ids):
    """Logits [N+1, T, V] by the family's own parts, straight from `output_hidden_states`."""
    output = model(torch.tensor([ids]), output_hidden_states=True)
    norm, raw = config.final_norm, config.raw_head
    earlier = [written_readout(model, family, h, final_norm=norm, raw_head=raw) for h in output.hidden_states[:-1]]
    return torch.stack([*earlier, output.logits])[:, 0].double()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("name", ["llama", "gemma2", "opt"])
def test_a_prompt_against_the_float64_reference(name, config):
    model = tiny(name)
    trace = traced(model, config)
    logits = layer_logits(model, FAMILIES[name], config, IDS)
    assert trace.num_layers == 6
    assert [token.token for token in trace.tokens] == [*IDS[1:], None]
    for position, token in enumerate(trace.tokens):
        rows = logits[:, position].tolist()
        mature, candidates = rows[-1], [rows[layer] for layer in trace.candidates]
        divergence = judge.DIVERGENCES[config.divergence]
        expected = [divergence(mature, row) for row in rows[:-1]]
        assert token.divergence == pytest.approx(expected, rel=1e-3, abs=1e-5)
        assert token.divergence[token.layer] == pytest.approx(max(token.divergence[layer] for layer in trace.candidates))
        assert token.layer == trace.candidates[judge.select(mature, candidates, config.divergence)]
        scores = judge.contrast(mature, candidates, config.relative_top, config.divergence)
        inside = {index for index, score in enumerate(scores) if score > -math.inf}
        assert token.plausible_count == len(inside)
        assert {each.id for each in token.plausible} <= inside
        assert len(token.plausible) == min(len(inside), 20)
        assert token.dola_choice == max(range(len(scores)), key=scores.__getitem__) == token.plausible[0].id
        assert token.mature_choice == max(range(len(mature)), key=mature.__getitem__)
        shares = [judge.softmax(row) for row in rows]
        for each in token.plausible:
            assert each.contrast == pytest.approx(scores[each.id], abs=2e-3)
            assert each.probability == pytest.approx([share[each.id] for share in shares], rel=2e-3, abs=1e-12)
        for share, top in zip(shares, token.top, strict=True):
            assert [p for _, p in top] == pytest.approx(sorted(share, reverse=True)[:5], rel=2e-3)
            assert [share[each] for each, _ in top] == pytest.approx([p for _, p in top], rel=2e-3)
        if token.token is None:
            assert (token.rank, token.probability) == (None, None)
        else:
            assert token.probability == pytest.approx([share[token.token] for share in shares], rel=2e-3, abs=1e-12)
            assert list(token.rank) == [1 + sum(other > row[token.token] for other in row) for row in rows]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_in_float64_the_numbers_are_the_references_to_the_last_digit_kept(config):
    """In float64 only the rounding to DIGITS remains, so the difference in float32 was noise."""
    model = tiny().double()
    trace = traced(model, config)
    logits = layer_logits(model, FAMILIES["llama"], config, IDS)
    near = {"rel": 10.0 ** (1 - DIGITS), "abs": 1e-13}
    for position, token in enumerate(trace.tokens):
        rows = logits[:, position].tolist()
        mature, candidates = rows[-1], [rows[layer] for layer in trace.candidates]
        divergence = judge.DIVERGENCES[config.divergence]
        assert token.divergence == pytest.approx([divergence(mature, row) for row in rows[:-1]], **near)
        assert token.entropy == pytest.approx(entropy(mature), **near)
        scores = judge.contrast(mature, candidates, config.relative_top, config.divergence)
        assert [each.contrast for each in token.plausible] == pytest.approx(
            [scores[each.id] for each in token.plausible], **near
        )


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_a_generated_trace_is_of_what_generate_did(llama, config, penalty):
    trace = traced(llama, config, generate=12, repetition_penalty=penalty)
    prompt = torch.tensor([IDS])
    settings = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": penalty, "pad_token_id": 0}
    settings |= {"return_dict_in_generate": True, "output_scores": True, "attention_mask": torch.ones_like(prompt)}
    output = dola.generate(llama, prompt, **settings, dola_layers=config)
    made = output.sequences[0, len(IDS) :].tolist()
    assert [token.token for token in trace.tokens] == made
    assert trace.mode == "dola"
    assert trace.prompt_tokens == len(IDS)
    before = IDS
    for token, (scores,) in zip(trace.tokens, output.scores, strict=True):
        assert (token.position, token.after) == (len(before) - 1, before[-1])
        for each in token.plausible:
            score = float(scores[each.id])
            if each.id in before:  # undo the penalty
                score = score / penalty if score < 0 else score * penalty
            assert each.contrast == pytest.approx(score, abs=2e-3)
        if penalty == 1:
            assert token.dola_choice == token.token
        before = [*before, token.token]


def test_a_greedy_trace_is_of_plain_decoding(llama):
    trace = traced(llama, generate=6, decode="greedy", repetition_penalty=1.0)
    prompt = torch.tensor([IDS])
    made = llama.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, pad_token_id=0)
    assert [token.token for token in trace.tokens] == made[0, len(IDS) :].tolist()
    assert all(token.token == token.mature_choice for token in trace.tokens)
    assert trace.mode == "greedy"


def test_arguments_of_generate_are_passed_on(llama):
    free = traced(llama, generate=4)
    banned = free.tokens[0].token
    trace = traced(llama, generate=4, bad_words_ids=[[banned]])
    assert trace.tokens[0].token != banned
    assert trace.tokens[0].dola_choice == free.tokens[0].dola_choice
    assert "another rule of generation" in trace.explain(0)


@pytest.mark.parametrize("scores", ["contrast", "distribution"])
def test_what_any_strength_needs_is_kept(scores):
    model = tiny()
    spread_logits(model, {"input_ids": torch.tensor([IDS])})
    trace = dola.trace(model, word_tokenizer(), IDS, DoLaConfig("all", strength=0.5, scores=scores))
    for token in trace.tokens:
        assert (token.plausible_count == 1) == token.lazy
        best = max(token.plausible, key=lambda each: each.log_p - 0.5 * each.log_q)
        assert best.id == token.dola_choice
        for each in token.plausible:
            assert math.exp(each.log_p) == pytest.approx(each.probability[-1], rel=1e-4)
            assert math.exp(each.log_q) == pytest.approx(each.probability[token.layer], rel=1e-4)
            if scores == "contrast":
                assert each.contrast == pytest.approx(each.log_p - 0.5 * each.log_q, abs=1e-4)
    assert LayerTrace.from_json(trace.to_json()) == trace
    said = [trace.explain(index) for index in range(len(trace.tokens))]
    assert not any("gained most" in sentence for sentence in said)
    assert any("at strength 0.5, so DoLa" in sentence for sentence in said)


def test_a_file_of_an_earlier_version_opens(llama):
    found = json.loads(dola.trace(llama, word_tokenizer(), IDS, "high").to_json())
    for name in ("strength", "scores"):
        del found["settings"][name]
    for each in (each for token in found["tokens"] for each in token["plausible"]):
        del each["log_p"], each["log_q"]
    opened = LayerTrace.from_value(found)
    assert (opened.tokens[0].plausible[0].log_p, opened.tokens[0].plausible[0].log_q) == (None, None)
    assert opened.config == DoLaConfig("high")


def test_lazy_contrast_applies_where_one_token_is_plausible(llama):
    narrow = traced(llama, DoLaConfig("high", relative_top=1.0))
    assert all(token.lazy and token.plausible_count == 1 for token in narrow.tokens)
    assert not any(token.lazy for token in traced(llama, DoLaConfig("high", relative_top=1.0, lazy=False)).tokens)
    assert not any(token.lazy for token in traced(llama, DoLaConfig("high", relative_top=0.0)).tokens)
    assert "no other token is plausible" in narrow.explain(0)


def test_a_large_plausible_set_is_listed_in_part_with_dolas_choice(llama):
    config = DoLaConfig("high", relative_top=0.0)
    trace = traced(llama, config)
    logits = layer_logits(llama, FAMILIES["llama"], config, IDS)
    unlisted = 0
    for position, token in enumerate(trace.tokens):
        assert token.plausible_count == 401
        assert len(token.plausible) == 20
        shares = logits[:, position].softmax(-1)
        unlisted += token.dola_choice not in shares[-1].topk(20).indices
        choice = token.plausible[0]
        assert choice.id == token.dola_choice
        assert choice.probability == pytest.approx(shares[:, choice.id].tolist(), rel=2e-3, abs=1e-12)
    assert unlisted, "this test is of choices beyond the likeliest 20"


def test_the_readout_never_sees_more_than_a_chunk(llama, monkeypatch):
    """Bounded memory: neither several layers at a time nor a whole prompt."""
    monkeypatch.setitem(CHUNK_ELEMENTS, "cpu", 4 * 401 * 7)
    whole, shapes, logits = traced(llama), [], []
    original = Anatomy.readout

    def watched(self, hidden, **settings):
        shapes.append(tuple(hidden.shape))
        return original(self, hidden, **settings)

    forward = llama.lm_head.forward
    monkeypatch.setattr(Anatomy, "readout", watched)
    monkeypatch.setattr(llama.lm_head, "forward", lambda hidden: logits.append(forward(hidden)) or logits[-1])
    ids = (IDS * 20)[:150]
    trace = traced(llama, ids=ids)
    assert max(rows for rows, _ in shapes if rows) <= 7
    assert {len(shape) for shape in shapes} == {2}
    assert max(made[..., 0].numel() for made in logits) <= 7  # the model's own forward makes the last position's alone
    assert len(trace.tokens) == 150
    for token, same in zip(trace.tokens[: len(IDS) - 1], whole.tokens, strict=False):
        assert token.divergence == pytest.approx(same.divergence, rel=1e-4)
        assert (token.layer, token.dola_choice, token.rank) == (same.layer, same.dola_choice, same.rank)


def test_texts_are_those_of_the_tokens(llama):
    tokenizer = byte_tokenizer()
    trace = dola.trace(llama, tokenizer, "Hello 日本\n there")
    assert "".join(trace.text(token.after) for token in trace.tokens[:3]) in "Hello"
    assert trace.prompt == "Hello 日本\n there"
    texts = {trace.text(token.after) for token in trace.tokens}
    assert "\n" in texts
    assert any(text.startswith("\\x") for text in texts), "a part of a character is shown as its bytes"
    assert not any("\ufffd" in text for text in trace.texts.values())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ids": []}, "The prompt has no tokens"),
        ({"ids": [3] * 257}, "has 257 tokens and generate=0; together the model allows 256"),
        ({"generate": 250}, "together the model allows 256"),
        ({"generate": -1}, "generate=-1 is out of range; the minimum is 0"),
        ({"top_k": 0}, "top_k=0 is out of range; the minimum is 1"),
        ({"decode": "beam", "generate": 1}, "decode='beam' is not supported"),
        ({"min_new_tokens": 3}, "min_new_tokens given without generate="),
        ({"generate": 2, "max_new_tokens": 300}, "max_new_tokens=300 is not supported"),
        ({"generate": 2, "num_return_sequences": 2}, "num_return_sequences=2 is not supported"),
    ],
)
def test_meaningless_arguments_are_refused(llama, settings, message):
    with pytest.raises(InputError, match=message):
        traced(llama, **settings)


def test_models_that_cannot_be_traced(llama):
    with pytest.raises(LayersError):
        traced(llama, [6])
    with dola.attach(llama, "high"), pytest.raises(AttachError, match="has DoLa attached"):
        traced(llama)
    with pytest.raises(InputError, match="training mode"):
        traced(tiny().train())
    broken = tiny()
    broken.model.layers[4].mlp.down_proj.weight[0, 0] = math.nan
    with pytest.raises(InputError, match="no distribution at position 0"):
        traced(broken)
    wrong = Anatomy.of(llama)
    object.__setattr__(wrong, "final_norm", None)
    with pytest.raises(ReadoutError):
        traced(llama, anatomy=wrong)


def test_a_layer_that_is_not_finite_is_named():
    model = tiny()
    model.model.embed_tokens.weight[IDS[2]] = 3e38
    with pytest.raises(InputError, match="layer 0 are NaN or infinite at position 2"):
        traced(model, DoLaConfig("all", final_norm=False))
