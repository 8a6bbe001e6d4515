"""Every generation mode of transformers with DoLa gives the same tokens as a model whose own forward is DoLa (see oracle.py).

Each mode is tested through `attach`, `dola.generate` and `install`. On a build that decodes plainly all of these tests fail:
`test_every_mode_differs_from_plain_decoding` is the proof.
"""

import copy
import re
import threading
import warnings
from pathlib import Path

import pytest
import quanto_in_python
import torch
import transformers
from families import tiny
from transformers import (
    AsyncTextIteratorStreamer,
    CompileConfig,
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TextGenerationPipeline,
    TextIteratorStreamer,
    TextStreamer,
    WatermarkingConfig,
)

import dola
from dola.contrast import plausible
from dola.errors import AttachError, InputError, LayersError
from dola.model.hidden import cache_name
from integration.oracle import oracle_of

PROMPT = torch.tensor([[5, 17, 200, 33, 5, 17, 200, 33, 5, 17]])
BATCH = torch.tensor([[0, 0, 0, 7, 30], [5, 17, 200, 33, 8]])
MASK = (BATCH > 0).long()
COMMON = {"max_new_tokens": 20, "pad_token_id": 0, "eos_token_id": 2}


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def oracle(model):
    return oracle_of(model)


DOORS = {
    "greedy": {"do_sample": False},
    "greedy, penalty": {"do_sample": False, "repetition_penalty": 1.2},
    "sampling": {"do_sample": True, "top_k": 0},
    "temperature": {"do_sample": True, "temperature": 1.7, "top_k": 0},
    "top-k": {"do_sample": True, "temperature": 2.0, "top_k": 5},
    "top-p": {"do_sample": True, "temperature": 2.0, "top_p": 0.8},
    "min-p": {"do_sample": True, "temperature": 2.0, "min_p": 0.05},
    "beams": {"do_sample": False, "num_beams": 4, "repetition_penalty": 1.2},
    "beam sampling": {"do_sample": True, "num_beams": 3},
    "several from beams": {"do_sample": False, "num_beams": 4, "num_return_sequences": 3},
    "several from sampling": {"do_sample": True, "num_return_sequences": 5, "top_k": 0},
    "no cache": {"do_sample": False, "use_cache": False},
    "static cache": {"do_sample": False, "cache_implementation": "static"},
    "dynamic cache": {"do_sample": False, "cache_implementation": "dynamic"},
    **({"offloaded cache": {"do_sample": False, "cache_implementation": "offloaded"}} if torch.cuda.is_available() else {}),
    "chunked prefill": {"do_sample": False, "prefill_chunk_size": 3},
    "prompt lookup": {"do_sample": False, "prompt_lookup_num_tokens": 3, "repetition_penalty": 1.2},
    "no repeats": {"do_sample": False, "no_repeat_ngram_size": 2, "eos_token_id": None},
    "renormalised": {"do_sample": True, "renormalize_logits": True, "top_k": 0},
}


def by_attach(model, *args, **kwargs):
    with dola.attach(model, "high"):
        return model.generate(*args, **kwargs)


def by_generate(model, *args, **kwargs):
    return dola.generate(model, *args, dola_layers="high", **kwargs)


def by_install(model, *args, **kwargs):
    dola.install()
    try:
        return model.generate(*args, dola_layers="high", **kwargs)
    finally:
        dola.uninstall()


WAYS = {"attach": by_attach, "generate": by_generate, "install": by_install}


def walk(way, model, *args, **settings):
    """Generate with a fixed seed."""
    if settings.get("cache_implementation") == "offloaded":  # to the CPU, so the model is on a GPU
        model, args = copy.deepcopy(model).cuda(), [arg.cuda() for arg in args]
    torch.manual_seed(3)
    return way(model, *args, **{**COMMON, **settings})


def plainly(model, *args, **kwargs):
    return model.generate(*args, **kwargs)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("door", DOORS)
def test_same_tokens_as_a_model_that_is_plainly_dola(model, oracle, door, way):
    expected = walk(plainly, oracle, PROMPT, **DOORS[door])
    assert torch.equal(walk(way, model, PROMPT, **DOORS[door]), expected)


@pytest.mark.parametrize("door", DOORS)
def test_every_mode_differs_from_plain_decoding(model, oracle, door):
    plain, contrasted = (walk(plainly, m, PROMPT, **DOORS[door]) for m in (model, oracle))
    assert plain.shape != contrasted.shape or not torch.equal(plain, contrasted)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("door", ["greedy, penalty", "beams", "static cache", "no cache"])
def test_left_padded_batches(model, oracle, door, way):
    settings = {**DOORS[door], "attention_mask": MASK}
    assert torch.equal(walk(way, model, BATCH, **settings), walk(plainly, oracle, BATCH, **settings))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_assistant_model(model, oracle, way):
    assistant = copy.deepcopy(model)
    assistant.lm_head.weight.add_(0.02 * torch.randn(assistant.lm_head.weight.shape))  # right often, not always
    settings = {"do_sample": False, "repetition_penalty": 1.2}
    found = walk(way, model, PROMPT, assistant_model=assistant, **settings)
    assert torch.equal(found, walk(plainly, oracle, PROMPT, **settings))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_what_is_returned(model, oracle, way):
    settings = {"return_dict_in_generate": True, "output_scores": True, "output_hidden_states": True, "output_attentions": True}
    model.set_attn_implementation("eager")
    found = walk(way, model, PROMPT, do_sample=False, output_logits=True, repetition_penalty=1.2, **settings)
    expected = walk(
        plainly, oracle, PROMPT, do_sample=False, repetition_penalty=1.2, output_scores=True, return_dict_in_generate=True
    )
    own = [model(found.sequences[:, : 10 + step]).logits[:, -1] for step in range(len(found.scores))]
    model.set_attn_implementation("sdpa")
    torch.testing.assert_close(found.scores, expected.scores, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(list(found.logits), own, atol=2e-3, rtol=1e-3)
    assert len(found.hidden_states[0]) == 7
    assert found.hidden_states[0][0].shape == (1, 10, 32)
    assert len(found.attentions[0]) == 6


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_scores_of_sampling_and_beams(model, oracle, way, num_beams):
    settings = {"do_sample": num_beams == 1, "num_beams": num_beams, "output_scores": True, "return_dict_in_generate": True}
    settings |= {"temperature": 1.5, "top_k": 7} if num_beams == 1 else {}
    found, expected = walk(way, model, PROMPT, **settings), walk(plainly, oracle, PROMPT, **settings)
    torch.testing.assert_close(found.scores, expected.scores, atol=2e-3, rtol=1e-3)
    if num_beams > 1:
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_inputs_embeds(model, oracle, way):
    embeds = model.get_input_embeddings()(PROMPT)
    found = walk(way, model, inputs_embeds=embeds, do_sample=False)
    assert torch.equal(found, walk(plainly, oracle, inputs_embeds=embeds, do_sample=False))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_continued_from_a_cache(model, oracle, way):
    """Two turns of a chat: the second starts from the cache of the first."""

    def two_turns(way, model):
        cache = {cache_name(model): DynamicCache(config=model.config)}
        first = walk(way, model, PROMPT, do_sample=False, **cache, eos_token_id=None)
        second = torch.cat([first, torch.tensor([[9, 44, 201]])], dim=1)
        return walk(way, model, second, do_sample=False, **cache, eos_token_id=None)

    found = two_turns(way, model)
    assert torch.equal(found, two_turns(plainly, oracle))
    assert found.shape[1] == 10 + 20 + 3 + 20


class Letters:
    """A tokenizer for streamers: one character a token."""

    def decode(self, ids, **_):
        return "".join(chr(0x4E00 + int(i)) for i in ids)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_streamers(model, oracle, way, capsys):
    expected = Letters().decode(walk(plainly, oracle, PROMPT, do_sample=False)[0, 10:])
    walk(way, model, PROMPT, do_sample=False, streamer=TextStreamer(Letters(), skip_prompt=True))
    assert capsys.readouterr().out.strip() == expected
    streamer = TextIteratorStreamer(Letters(), skip_prompt=True)
    thread = threading.Thread(target=walk, args=(way, model, PROMPT), kwargs={"do_sample": False, "streamer": streamer})
    thread.start()
    pieces = list(streamer)
    thread.join()
    assert "".join(pieces) == expected
    assert len(pieces) > 5


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_async_streamer(model, oracle, way):
    import asyncio

    async def collect():
        streamer = AsyncTextIteratorStreamer(Letters(), skip_prompt=True)
        thread = threading.Thread(target=walk, args=(way, model, PROMPT), kwargs={"do_sample": False, "streamer": streamer})
        thread.start()
        text = "".join([piece async for piece in streamer])
        thread.join()
        return text

    assert asyncio.run(collect()) == Letters().decode(walk(plainly, oracle, PROMPT, do_sample=False)[0, 10:])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_stop_strings_fire(smollm2, way):
    model, tokenizer = smollm2
    inputs = tokenizer("List three colours:\n1.", return_tensors="pt")
    settings = {"max_new_tokens": 30, "do_sample": False, "repetition_penalty": 1.2, "pad_token_id": 2}
    whole = tokenizer.decode(way(model, **inputs, **settings)[0])
    assert "\n2" in whole
    stopped = tokenizer.decode(way(model, **inputs, **settings, stop_strings=["\n2"], tokenizer=tokenizer)[0])
    assert whole.startswith(stopped)
    assert stopped.endswith("\n2")


def test_pipeline(smollm2):
    model, tokenizer = smollm2
    settings = {"max_new_tokens": 8, "do_sample": False, "repetition_penalty": 1.2, "return_full_text": False}
    pipeline = TextGenerationPipeline(model=model, tokenizer=tokenizer)
    with dola.attach(model, "high"):
        found = pipeline("Water boils at", **settings)[0]["generated_text"]
    inputs = tokenizer("Water boils at", return_tensors="pt")
    out = dola.generate(model, **inputs, max_new_tokens=8, do_sample=False, repetition_penalty=1.2, pad_token_id=2)
    assert found == tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert found != pipeline("Water boils at", **settings)[0]["generated_text"]


@pytest.mark.filterwarnings("ignore:You seem to be using the pipelines sequentially")
def test_pipeline_with_batches(smollm2):
    """Three prompts of unequal lengths, two at a time, have the text that each has alone."""
    model, tokenizer = smollm2
    settings = {"max_new_tokens": 8, "do_sample": False, "repetition_penalty": 1.2, "return_full_text": False}
    prompts = ["Water boils at", "The capital of Washington State is the city of", "Honey never"]
    pipeline = TextGenerationPipeline(model=model, tokenizer=tokenizer)
    plain = [found[0]["generated_text"] for found in pipeline(prompts, batch_size=2, **settings)]
    with dola.attach(model, "high"):
        batched = [found[0]["generated_text"] for found in pipeline(prompts, batch_size=2, **settings)]
        alone = [pipeline(prompt, **settings)[0]["generated_text"] for prompt in prompts]
    assert batched == alone
    assert batched != plain


def test_lazy_contrast_changes_no_token_in_any_door():
    peaked = tiny("llama", spread=12.0)
    saved = 0
    for settings in DOORS.values():
        outputs = []
        for lazy in (True, False):
            with dola.attach(peaked, dola.DoLaConfig("high", lazy=lazy)) as attached:
                outputs.append(walk(plainly, peaked, PROMPT, **settings))
                saved += attached.rows_saved
        assert torch.equal(*outputs)
    assert saved > 100


# -- scope and threads


def test_threads_that_mix_plain_high_and_low_equal_their_serial_outputs(model, oracle):
    prompts = torch.randint(3, 400, (4, 1, 12), generator=torch.Generator().manual_seed(0))
    jobs = [
        lambda: model.generate(prompts[0], do_sample=False, **COMMON),
        lambda: dola.generate(model, prompts[1], dola_layers="high", do_sample=False, **COMMON),
        lambda: dola.generate(model, prompts[2], dola_layers="low", do_sample=False, **COMMON),
        lambda: dola.generate(model, prompts[3], dola_layers=[4], do_sample=False, suppress_tokens=[3, 4], **COMMON),
    ]
    expected = [job() for job in jobs]
    assert torch.equal(expected[1], oracle.generate(prompts[1], do_sample=False, **COMMON))
    assert not torch.equal(expected[1], model.generate(prompts[1], do_sample=False, **COMMON))
    results = [[] for _ in jobs]

    def work(i):
        results[i].extend(jobs[i]() for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for want, got in zip(expected, results, strict=True):
        assert len(got) == 5
        assert all(torch.equal(want, one) for one in got)
    assert "_get_logits_processor" not in model.__dict__
    assert not model._forward_hooks


def test_dola_generate_leaves_the_model_plain(model):
    before, attributes = model(PROMPT).logits, set(model.__dict__)
    dola.generate(model, PROMPT, max_new_tokens=2)
    assert torch.equal(model(PROMPT).logits, before)
    assert set(model.__dict__) == attributes
    with pytest.raises(ValueError, match="max_new_tokens"):
        dola.generate(model, PROMPT, max_new_tokens=-1)
    assert torch.equal(model(PROMPT).logits, before)
    assert set(model.__dict__) == attributes


def test_dola_generate_on_an_attached_model_is_refused(model):
    with dola.attach(model), pytest.raises(AttachError, match="attached already"):
        dola.generate(model, PROMPT, max_new_tokens=2)


def test_dola_generate_checks_layers(model):
    with pytest.raises(LayersError, match="the model has 6 layers"):
        dola.generate(model, PROMPT, dola_layers=[9], max_new_tokens=2)


def test_dola_generate_takes_a_config(model):
    config = dola.DoLaConfig([4], relative_top=0.0)
    found = dola.generate(model, PROMPT, dola_layers=config, do_sample=False, **COMMON)
    with dola.attach(model, config):
        assert torch.equal(found, model.generate(PROMPT, do_sample=False, **COMMON))
    assert not torch.equal(found, model.generate(PROMPT, do_sample=False, **COMMON))


def test_paged_is_refused_where_it_could_not_be_seen(model):
    with pytest.raises(InputError, match=r"paged(.|\n)*attach instead"):
        dola.generate(model, PROMPT, cache_implementation="paged", max_new_tokens=2)


# -- install: notebooks of transformers 4


@pytest.fixture
def installed():
    dola.install()
    yield
    dola.uninstall()


@pytest.mark.parametrize("asked", ["of the call", "of the model", "as keyword"])
def test_continuous_batching_refuses_dola_layers(model, asked):
    """It runs in a thread of its own, so `transformers serve --continuous-batching` used to decode plainly, silently."""
    given = {"max_new_tokens": 2, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
    config = GenerationConfig(**given, dola_layers="high" if asked == "of the call" else None)
    keyword = {"dola_layers": "high"} if asked == "as keyword" else {}
    dola.install()
    model.generation_config.dola_layers = "high" if asked == "of the model" else None
    try:
        with pytest.raises(InputError, match=r"dola_layers='high' has no effect in continuous batching(.|\n)*attach"):
            model.generate_batch([[5, 6, 7]], generation_config=config, progress_bar=False, **keyword, **small_cache())
    finally:
        model.generation_config.dola_layers = None
        dola.uninstall()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("layers", ["high", "low", [3, 5], [5]])
def test_dola_layers_works_in_every_place(model, layers):
    expected = dola.generate(model, PROMPT, dola_layers=layers, do_sample=False, repetition_penalty=1.2, **COMMON)
    settings = {"do_sample": False, "repetition_penalty": 1.2, **COMMON}
    assert torch.equal(model.generate(PROMPT, dola_layers=layers, **settings), expected)
    given = GenerationConfig(dola_layers=layers, **settings)
    assert torch.equal(model.generate(PROMPT, generation_config=given), expected)
    assert torch.equal(model.generate(PROMPT, given), expected)
    assert given.dola_layers == layers
    model.generation_config.dola_layers = layers
    try:
        assert torch.equal(model.generate(PROMPT, **settings), expected)
    finally:
        model.generation_config.dola_layers = None
    assert not torch.equal(model.generate(PROMPT, **settings), expected)


@pytest.mark.usefixtures("installed")
def test_no_layers_in_a_generation_config_are_an_error_and_not_plain_decoding(model):
    with pytest.raises(LayersError, match="names no candidate layer"):
        model.generate(PROMPT, generation_config=GenerationConfig(dola_layers=[], max_new_tokens=2))


def test_attaching_while_another_thread_generates_call_scoped(model, oracle):
    """That call continues as it began: contrasted once."""
    expected = walk(plainly, oracle, PROMPT, do_sample=False)
    began, attached, found = threading.Event(), threading.Event(), []

    class Wait(TextStreamer):
        def on_finalized_text(self, text, stream_end=False):
            began.set()
            attached.wait(30)

    settings = {"do_sample": False, "streamer": Wait(Letters(), skip_prompt=True)}
    thread = threading.Thread(target=lambda: found.append(walk(by_generate, model, PROMPT, **settings)))
    thread.start()
    assert began.wait(30)
    with dola.attach(model, "low"):
        attached.set()
        thread.join()
    assert torch.equal(found[0], expected)


def test_install_with_the_reference_gives_its_tokens(model):
    reference = dola.DoLaConfig.reference("high")
    dola.install(reference)
    try:
        found = model.generate(PROMPT, dola_layers="high", do_sample=False, **COMMON)
    finally:
        dola.uninstall()
    assert torch.equal(found, dola.generate(model, PROMPT, dola_layers=reference, do_sample=False, **COMMON))
    assert not torch.equal(found, dola.generate(model, PROMPT, dola_layers="high", do_sample=False, **COMMON))


def test_install_twice_and_uninstall_twice():
    from transformers import GenerationMixin

    original, mode, batch = GenerationMixin.generate, GenerationConfig.get_generation_mode, GenerationMixin.generate_batch
    dola.install()
    once = GenerationMixin.generate
    dola.install()
    assert GenerationMixin.generate is once is not original
    dola.uninstall()
    dola.uninstall()
    assert GenerationMixin.generate is original
    assert GenerationConfig.get_generation_mode is mode
    assert GenerationMixin.generate_batch is batch


def test_install_takes_a_config_only():
    with pytest.raises(ValueError, match=r"install\(config='high'\) is not a DoLaConfig"):
        dola.install("high")


def test_warnings_are_given_once(model, caplog):
    import importlib

    module = importlib.import_module("dola.decoding.generate")
    module._said.clear()
    with caplog.at_level("WARNING", logger="dola"), warnings.catch_warnings():
        for _ in range(2):
            dola.generate(model, PROMPT, max_new_tokens=1)
            dola.generate(model, PROMPT, max_new_tokens=1, repetition_penalty=1.2)
            dola.install()
            dola.uninstall()
    assert len(caplog.messages) == 2
    assert "repetition_penalty=1.0 with DoLa" in caplog.messages[0]
    assert "DoLaConfig.reference()" in caplog.messages[1]


# -- constrained output


def test_constraints_are_never_broken(smollm2):
    """Only digits are allowed, and the model finds none of them plausible after this prompt."""
    model, tokenizer = smollm2
    digits = [i for i in range(tokenizer.vocab_size) if tokenizer.decode([i]).isdigit()]
    inputs = tokenizer("My favourite colour is", return_tensors="pt")
    for penalty in (1.0, 1.2):
        for way in WAYS.values():
            out = way(
                model,
                **inputs,
                max_new_tokens=6,
                do_sample=False,
                repetition_penalty=penalty,
                prefix_allowed_tokens_fn=lambda batch, ids: digits,
                pad_token_id=2,
            )
            assert tokenizer.decode(out[0, inputs["input_ids"].shape[1] :]).isdigit()


def test_a_json_grammar_is_kept(smollm2):
    """A grammar engine keeps state, so each of its steps must run once, and its masks take precedence over the contrast."""
    xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed")
    import json

    from xgrammar.contrib.hf import LogitsProcessor

    model, tokenizer = smollm2
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)
    schema = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}, "people": {"type": "integer", "maximum": 99999}},
        "required": ["city", "people"],
    }
    grammar = xgrammar.GrammarCompiler(info).compile_json_schema(json.dumps(schema), any_whitespace=False)
    inputs = tokenizer("Describe Seattle as JSON:", return_tensors="pt")
    settings = {"max_new_tokens": 60, "do_sample": False, "repetition_penalty": 1.2, "pad_token_id": 2}
    plain = model.generate(**inputs, logits_processor=[LogitsProcessor(grammar)], **settings)
    for way in WAYS.values():
        out = way(model, **inputs, logits_processor=[LogitsProcessor(grammar)], **settings)
        assert not torch.equal(out, plain)
        answer = json.loads(tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
        assert set(answer) == {"city", "people"}


CONSTRAINTS = {
    "bad words": {"bad_words_ids": [[i] for i in range(3, 200)]},
    "suppressed": {"suppress_tokens": list(range(3, 200))},
    "suppressed first": {"begin_suppress_tokens": list(range(3, 200))},
    "forced last": {"forced_eos_token_id": 2},
    "minimal length": {"min_new_tokens": 18},
    "allowed by a function": {"prefix_allowed_tokens_fn": lambda batch, ids: list(range(200 + int(ids[-1]) % 7, 400))},
    "bias": {"sequence_bias": {(8,): -8.0, (244,): 3.0}},
}


def obeys(name, new):
    """Whether generated tokens keep a constraint."""
    forbidden = set(range(3, 200))
    return {
        "bad words": not forbidden & set(new),
        "suppressed": not forbidden & set(new),
        "suppressed first": new[0] not in forbidden,
        "forced last": len(new) < 20 or new[-1] == 2,
        "minimal length": len(new) >= 18,
        "allowed by a function": all(b >= 200 + a % 7 for a, b in zip([17, *new], new, strict=False)),
        "bias": True,
    }[name]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_are_contrast_then_mask_or_the_mature_scores(model, oracle, way, name, penalty):
    """Step by step: the processors on the contrast. On the model's own logits where they leave no plausible token, or where
    plain decoding with the same biases would choose an implausible one."""
    settings = {"do_sample": False, "repetition_penalty": penalty, **COMMON, **CONSTRAINTS[name]}
    out = way(model, PROMPT, **settings)
    assert obeys(name, out[0, 10:].tolist())
    config = model._prepare_generation_config(None, **{k: v for k, v in settings.items() if not callable(v)})[0]
    config.max_length = 30
    model._prepare_special_tokens(config, True, device="cpu")
    processors = model._get_logits_processor(
        config, 10, PROMPT, CONSTRAINTS[name].get("prefix_allowed_tokens_fn"), None, device="cpu", model_kwargs={}
    )
    biases = LogitsProcessorList([each for each in processors if not isinstance(each, RepetitionPenaltyLogitsProcessor)])
    for length in range(10, out.shape[1]):
        own, contrasted = (m(out[:, :length]).logits[:, -1].detach() for m in (model, oracle))
        inside = plausible(own)
        scores = processors(out[:, :length], contrasted.clone())
        lost = scores.masked_fill(~inside, -torch.inf).amax() <= scores.masked_fill(inside, -torch.inf).amax()
        forced = name == "bias" and not inside[0, biases(out[:, :length], own.clone()).argmax()]
        if lost or forced:
            scores = processors(out[:, :length], own.clone())
        assert int(scores.argmax()) == int(out[0, length])


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_watermarking(model, oracle, way):
    settings = {"do_sample": False, "watermarking_config": WatermarkingConfig(bias=2.0, seeding_scheme="selfhash")}
    found = walk(way, model, PROMPT, **settings)
    assert torch.equal(found, walk(plainly, oracle, PROMPT, **settings))
    assert not torch.equal(found, walk(way, model, PROMPT, do_sample=False))


# -- compiled, paged, quantized, wrapped


def compiled(backend="eager"):
    config = CompileConfig(backend=backend, mode=None)
    config._compile_all_devices = True  # or `generate` compiles nothing on a CPU
    return {"cache_implementation": "static", "compile_config": config, "do_sample": False}


def test_compiled_generate_notices_attach_and_remove(model, oracle):
    """Dynamo does not guard on hooks: plain, high, [4], plain, high in one process, and a second model of equal shape."""
    other = tiny("llama", seed=9)
    for one, contrasted in ((model, oracle), (other, oracle_of(other))):
        plain = walk(plainly, one, PROMPT, do_sample=False)
        high = walk(plainly, contrasted, PROMPT, do_sample=False)
        with dola.attach(one, [4]):
            static = one.generate(PROMPT, do_sample=False, **COMMON)
        assert not torch.equal(plain, high)
        assert torch.equal(walk(plainly, one, PROMPT, **compiled()), plain)
        assert torch.equal(walk(by_attach, one, PROMPT, **compiled()), high)
        with dola.attach(one, [4]):
            assert torch.equal(walk(plainly, one, PROMPT, **compiled()), static)
        assert torch.equal(walk(by_generate, one, PROMPT, **compiled()), high)
        assert torch.equal(walk(plainly, one, PROMPT, **compiled()), plain)
        assert torch.equal(walk(by_attach, one, PROMPT, **compiled()), high)


def test_compiled_by_inductor(model, oracle):
    expected = walk(plainly, oracle, PROMPT, do_sample=False)
    assert torch.equal(walk(by_attach, model, PROMPT, **compiled("inductor")), expected)


def test_compiled_wrapper(model, oracle):
    expected = oracle(PROMPT).logits.detach()
    plain = model(PROMPT).logits
    wrapper = torch.compile(model, backend="eager")
    torch.testing.assert_close(wrapper(PROMPT).logits, plain)
    with dola.attach(wrapper, "high"):
        torch.testing.assert_close(wrapper(PROMPT).logits, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(wrapper(PROMPT).logits, plain)


def small_cache():
    """By default the cache takes most of a machine's memory. transformers 5.0 has no such settings."""
    kind = getattr(transformers, "ContinuousBatchingConfig", None)
    return {} if kind is None else {"continuous_batching_config": kind(num_blocks=16, max_batch_tokens=64)}


def test_paged_attention(model, oracle):
    """Continuous batching runs in a thread of its own, and asks for logits by an index tensor."""
    prompts = [PROMPT[0].tolist(), [7, 30, 9], [8, 91, 4, 200]]
    config = GenerationConfig(max_new_tokens=8, do_sample=False, eos_token_id=-1, pad_token_id=0)
    expected = [
        oracle.generate(torch.tensor([p]), max_new_tokens=8, do_sample=False, eos_token_id=None, pad_token_id=0)[
            0, len(p) :
        ].tolist()
        for p in prompts
    ]
    with dola.attach(model, "high"):
        found = model.generate_batch(inputs=prompts, generation_config=config, progress_bar=False, **small_cache())
    assert [found[name].generated_tokens for name in sorted(found)] == expected


def test_paged_attention_with_constraints_is_refused(model):
    """Its processors run where the mature scores are not available."""
    config = GenerationConfig(max_new_tokens=4, do_sample=False, suppress_tokens=[3], pad_token_id=0, eos_token_id=-1)
    with (
        dola.attach(model),
        pytest.raises(InputError, match="SuppressTokensLogitsProcessor cannot be used in continuous batching"),
    ):
        model.generate_batch(inputs=[[5, 6, 7]], generation_config=config, progress_bar=False)
    with dola.attach(model), pytest.raises(InputError, match="continuous batching"):
        model.generate(PROMPT, cache_implementation="paged", suppress_tokens=[3], max_new_tokens=4)


def test_a_regular_expression_is_kept(smollm2):
    xgrammar = pytest.importorskip("xgrammar", reason="xgrammar is not installed")
    from xgrammar.contrib.hf import LogitsProcessor

    model, tokenizer = smollm2
    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size)
    grammar = xgrammar.GrammarCompiler(info).compile_regex(r" [0-9]{4}-[0-9]{2}-[0-9]{2}")
    inputs = tokenizer("The moon landing took place on", return_tensors="pt")
    settings = {"max_new_tokens": 20, "do_sample": False, "repetition_penalty": 1.2, "pad_token_id": 2}
    plain = model.generate(**inputs, logits_processor=[LogitsProcessor(grammar)], **settings)
    for way in WAYS.values():
        out = way(model, **inputs, logits_processor=[LogitsProcessor(grammar)], **settings)
        assert not torch.equal(out, plain)
        text = tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert re.fullmatch(r" \d{4}-\d{2}-\d{2}", text)


def test_moved_while_attached(oracle):
    """`.to()` on an attached model."""
    model = tiny("llama")
    with dola.attach(model, "high"):
        model.to(torch.float64)
        found = model(PROMPT).logits
        model.to(torch.float32)
        torch.testing.assert_close(model(PROMPT).logits, oracle(PROMPT).logits.detach(), atol=2e-3, rtol=1e-3)
    assert found.dtype == torch.float64


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_quantised_cache(way, monkeypatch):
    """The cache rounds its values, so the oracle gets the same cache for comparison."""
    pytest.importorskip("optimum.quanto", reason="optimum-quanto is not installed")
    quanto_in_python.use(monkeypatch)
    settings = {"do_sample": False, "cache_implementation": "quantized", "cache_config": {"backend": "quanto", "nbits": 4}}
    big = tiny("llama", head_dim=64, hidden_size=128)
    assert torch.equal(walk(way, big, PROMPT, **settings), walk(plainly, oracle_of(big), PROMPT, **settings))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_peft_adapters(way):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = tiny("llama")
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(base, config).eval()
    merged = copy.deepcopy(adapted).merge_and_unload()
    contrasted = oracle_of(merged)
    expected = walk(plainly, contrasted, PROMPT, do_sample=False)
    assert torch.equal(walk(way, adapted, input_ids=PROMPT, do_sample=False), expected)
    with dola.attach(adapted):
        torch.testing.assert_close(adapted(PROMPT).logits, contrasted(PROMPT).logits.detach(), atol=1e-3, rtol=1e-3)
    with adapted.disable_adapter():
        assert not torch.equal(walk(way, adapted, input_ids=PROMPT, do_sample=False), expected)


@pytest.mark.filterwarnings("ignore")
def test_the_hub_repository(model):
    """hub/custom_generate, as a local folder: transformers reads requirements and code from it."""
    repository = Path(__file__).parents[2] / "hub" / "custom_generate"
    expected = oracle_of(model, layers=(0, 2)).generate(PROMPT, do_sample=False, **COMMON)
    assert not torch.equal(expected, model.generate(PROMPT, do_sample=False, **COMMON))
    settings = {"trust_remote_code": True, "dola_layers": "low", "do_sample": False, **COMMON}
    assert torch.equal(model.generate(PROMPT, custom_generate=str(repository), **settings), expected)
    dola.install()
    try:  # is then left to itself, and not contrasted twice
        assert torch.equal(model.generate(PROMPT, custom_generate=str(repository), **settings), expected)
    finally:
        dola.uninstall()
