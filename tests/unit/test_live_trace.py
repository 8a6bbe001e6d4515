"""`follow` against `dola.trace` and `generate`: the same tokens, layers and choices, while they come."""

import threading

import pytest
import torch
from families import tiny
from words import word_tokenizer

import dola
from dola import DoLaConfig
from dola.errors import AttachError, CaptureError, InputError, LayersError
from dola.model.anatomy import Anatomy
from dola.model.hidden import captured
from dola.tracing.live import BLOCK, follow

IDS = [5, 17, 200, 33, 8, 91, 4, 60, 61]
CONFIGS = {
    "high": DoLaConfig("high"),
    "static without norm": DoLaConfig([3], final_norm=False),
    "old": DoLaConfig.reference("low"),
    "narrow": DoLaConfig("all", relative_top=1.0),
    "wide": DoLaConfig("all", relative_top=0.0),
}


def steps_of(model, config="high", ids=IDS, **settings):
    return list(follow(model, word_tokenizer(), ids, config, **{"generate": 20, **settings}))


def last(steps, decode):
    return [step for step in steps if step.decode == decode][-1]


def assert_same(trace, expected):
    """Two traces, from forwards of one token and of all, whose last digits differ."""
    assert len(trace.tokens) == len(expected.tokens)
    for name in ("model", "prompt", "mode", "settings", "num_layers", "candidates", "prompt_tokens"):
        assert getattr(trace, name) == getattr(expected, name)
    for token, same in zip(trace.tokens, expected.tokens, strict=True):
        for name in ("position", "after", "token", "layer", "lazy", "mature_choice", "dola_choice", "plausible_count", "rank"):
            assert getattr(token, name) == getattr(same, name), name
        assert token.divergence == pytest.approx(same.divergence, abs=1e-5, rel=1e-4)
        assert token.probability == pytest.approx(same.probability, rel=1e-3, abs=1e-9)
        assert [each.id for each in token.plausible] == [each.id for each in same.plausible]
        for each, other in zip(token.plausible, same.plausible, strict=True):
            assert each.contrast == pytest.approx(other.contrast, abs=1e-3)
            assert each.probability == pytest.approx(other.probability, rel=1e-3, abs=1e-9)
        for top, other in zip(token.top, same.top, strict=True):
            assert [token for token, _ in top] == [token for token, _ in other]
            assert [share for _, share in top] == pytest.approx([share for _, share in other], rel=1e-3)
    assert trace.texts == expected.texts


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_in_the_end_it_is_what_trace_gives(llama, config):
    steps = steps_of(llama, config)
    for decode in ("greedy", "dola"):
        expected = dola.trace(llama, word_tokenizer(), IDS, config, generate=20, decode=decode)
        found = last(steps, decode)
        assert found.done
        assert list(found.token_ids) == [token.token for token in expected.tokens]
        assert_same(found.trace, expected)


@pytest.mark.parametrize("name", ["gemma2", "opt", "qwen2"])
def test_other_architectures(name):
    model = tiny(name)
    steps = steps_of(model, generate=9, repetition_penalty=1.1)
    for decode in ("greedy", "dola"):
        settings = {"generate": 9, "decode": decode, "repetition_penalty": 1.1}
        assert_same(last(steps, decode).trace, dola.trace(model, word_tokenizer(), IDS, **settings))


def test_texts_grow_by_tokens_and_traces_by_blocks(llama):
    steps = steps_of(llama, decode=("dola",), generate=2 * BLOCK + 3)
    lengths = [len(step.token_ids) for step in steps]
    assert lengths == sorted(lengths)
    assert set(lengths) == set(range(1, 2 * BLOCK + 4))
    read = [0 if step.trace is None else len(step.trace.tokens) for step in steps]
    assert sorted(set(read)) == [0, BLOCK, 2 * BLOCK, 2 * BLOCK + 3]
    assert read == sorted(read)
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    whole = steps[-1].trace
    for step in steps:
        if step.trace is not None:
            assert step.trace.tokens == whole.tokens[: len(step.trace.tokens)]


def test_it_ends_where_the_model_ends():
    model = tiny()
    model.generation_config.eos_token_id = None
    free = last(steps_of(model, decode=("dola",)), "dola").token_ids
    model.generation_config.eos_token_id = free[4]
    found = last(steps_of(model, decode=("dola",)), "dola")
    assert found.token_ids == free[: free.index(free[4]) + 1]
    assert len(found.trace.tokens) == len(found.token_ids)


def test_stop_ends_all_ways_with_what_there_is(llama):
    stop = threading.Event()
    steps = []
    for step in follow(llama, word_tokenizer(), IDS, generate=200, stop=stop):
        steps.append(step)
        if len(step.token_ids) == 5:
            stop.set()
    for decode in ("greedy", "dola"):
        found = last(steps, decode)
        assert found.done
        assert len(found.trace.tokens) == len(found.token_ids) < 200


def test_closing_it_leaves_no_thread_and_no_hook(llama):
    def hooks():  # transformers leaves some of its own, where a test has asked for hidden states
        return [[*module._forward_hooks, *module._forward_pre_hooks] for module in llama.modules()]

    before = hooks()
    steps = follow(llama, word_tokenizer(), IDS, generate=200)
    next(steps)
    steps.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dola-live")]
    assert hooks() == before


def test_two_at_once_on_one_model_do_not_see_each_other(llama):
    alone = {layers: last(steps_of(llama, layers), "dola") for layers in ("high", "low")}
    together: dict[str, object] = {}

    def work(layers):
        together[layers] = last(steps_of(llama, layers), "dola")

    threads = [threading.Thread(target=work, args=(layers,)) for layers in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_foreign_hook_that_is_being_removed_is_harmless(llama):
    """torch looks up whether a hook takes kwargs as it calls it, so a hook that was just removed gets none."""
    failed = []

    def pass_by(hook, block):
        try:
            hook(block, (torch.zeros(1, 1, 32),))
        except Exception as error:
            failed.append(error)

    with captured(Anatomy.of(llama), [2]) as hidden:
        block = Anatomy.of(llama).blocks[2]
        (hook,) = block._forward_pre_hooks.values()
        thread = threading.Thread(target=pass_by, args=(hook, block))
        thread.start()
        thread.join()
    assert (failed, hidden) == ([], {})


def test_what_cannot_be_followed_is_refused(llama):
    with pytest.raises(InputError, match="no tokens"):
        steps_of(llama, ids=[])
    with pytest.raises(InputError, match="together the model allows 256"):
        steps_of(llama, generate=250)
    with pytest.raises(InputError, match="decode='beam' is not supported"):
        steps_of(llama, decode=("beam",))
    with pytest.raises(LayersError):
        steps_of(llama, [6])
    with dola.attach(llama, "high"), pytest.raises(AttachError, match="has DoLa attached"):
        steps_of(llama)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dola-live")]


def test_an_error_in_either_thread_comes_out(llama, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr("dola.tracing.live.LayerReader.read_states", broken)
        with pytest.raises(RuntimeError, match="broken"):
            steps_of(llama)
    with monkeypatch.context() as patch:
        patch.setattr("dola.tracing.live.tokens_behind", broken)
        with pytest.raises(RuntimeError, match="broken"):
            steps_of(llama)


def test_a_layer_that_did_not_run_is_an_error(llama, monkeypatch):
    """Some modes skip layers. Their traces must never show states of an earlier token."""

    def skipping(model, tokenizer, ids, config, *, streamer, **_):
        streamer.put(torch.tensor([ids]))
        streamer.put(torch.tensor([7]))

    monkeypatch.setattr("dola.tracing.live.tokens_behind", skipping)
    with pytest.raises(CaptureError, match="Only 0 of 7 layers ran for token 0"):
        steps_of(llama)
