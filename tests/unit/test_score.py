"""`dola.score` against forwards of an attached model, one for each continuation, and against the float64 reference."""

import copy
import json
import math
import os
import threading

import pytest
import torch
from odd_tokenizers import odd_tokenizer
from reference import dola_float64 as judge
from transformers import MambaConfig, MambaForCausalLM
from words import word_tokenizer

import dola
from dola import DoLaConfig, Recipe
from dola.errors import AttachError, ConfigError, InputError, LayersError, ReadoutError
from dola.model.hidden import captured
from dola.model.prefixes import MOST_NESTED, Line, plan

STEM = [5, 17, 200, 33, 8, 91, 4, 60, 61, 62, 63, 64]
CONTEXTS = [
    [*STEM, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16],
    [*STEM, 7, 8, 9, 10, 11, 12, 13, 14, 15, 300],
    [*STEM, 21],
    [90, 91],
    [*STEM],
]
CONTINUATIONS = [[[3, 9, 12], [44]], [[3, 9, 12], [3, 9, 13, 21, 50], [3]], [[100]], [[101, 5], [7, 7, 7, 7]], [[21, 30]]]
CONFIGS = {
    "vanilla": None,
    "high": DoLaConfig("high"),
    "low": DoLaConfig("low", final_norm=False),
    "static": DoLaConfig([3], relative_top=0.0),
    "all": DoLaConfig("all", relative_top=0.6, divergence="reference"),
    "old": DoLaConfig.reference("high"),
}


def flat(values):
    return torch.tensor([value for item in values for value in item], dtype=torch.float64)


def score(model, configs=CONFIGS, contexts=CONTEXTS, continuations=CONTINUATIONS, **settings):
    return dola.score(model, None, contexts, continuations, configs, progress=False, **settings)


@torch.no_grad()
def by_forwards(model, config):
    """The log-likelihoods that decoding with `config` gives: log_softmax of an attached model's scores, one at a time."""
    found = []
    for context, continuations in zip(CONTEXTS, CONTINUATIONS, strict=True):
        for continuation in continuations:
            ids = torch.tensor([[*context, *continuation]])
            if config is None:
                logits = model(ids).logits
            else:
                with dola.attach(model, config):
                    logits = model(ids).logits
            logp = logits[0, len(context) - 1 : -1].double().log_softmax(-1)
            found.append(logp.gather(-1, ids[0, len(context) :, None]).sum())
    return torch.stack(found)


def test_the_score_of_a_config_is_the_likelihood_under_decoding_with_it(family):
    _, model = family
    scores = score(model)
    for name, config in CONFIGS.items():
        torch.testing.assert_close(flat(scores.values[name]), by_forwards(model, config), atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("softmax", ["masked", "full", "none"])
@pytest.mark.parametrize("relative_top", [0.0, 0.3])
def test_recipes_equal_the_float64_reference(llama, softmax, relative_top):
    """Static, so that ties between candidates decide nothing."""
    found = score(llama, {"it": Recipe(DoLaConfig([2], relative_top=relative_top), softmax=softmax, floor=-77.0)})
    expected = []
    for context, continuations in zip(CONTEXTS, CONTINUATIONS, strict=True):
        for continuation in continuations:
            ids = torch.tensor([[*context, *continuation]])
            with torch.no_grad():
                out = llama(ids, output_hidden_states=True)
                early = llama.lm_head(llama.model.norm(out.hidden_states[2]))
            total = 0.0
            for token, position in zip(continuation, range(len(context) - 1, ids.shape[1] - 1), strict=True):
                mature, premature = out.logits[0, position].tolist(), early[0, position].tolist()
                total += by_hand(mature, premature, token, softmax, relative_top)
            expected.append(total)
    torch.testing.assert_close(flat(found.values["it"]), torch.tensor(expected, dtype=torch.float64), atol=1e-3, rtol=1e-5)


def by_hand(mature, premature, token, softmax, relative_top):
    log_p, log_q = judge.log_softmax(mature), judge.log_softmax(premature)
    inside = judge.plausible(mature, relative_top)
    gains = [p - q for p, q in zip(log_p, log_q, strict=True)]
    if softmax == "masked":
        return judge.log_softmax([g if ok else p - 1000 for g, p, ok in zip(gains, log_p, inside, strict=True)])[token]
    if not inside[token]:
        return -77.0
    return gains[token] if softmax == "none" else judge.log_softmax(gains)[token]


@torch.no_grad()
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_greedy_says_what_decoding_would_write(llama, name):
    plain = {"pad_token_id": 0, "eos_token_id": 400, "max_new_tokens": 3, "do_sample": False}
    prompts = [torch.tensor([context]) for context in CONTEXTS]
    if (config := CONFIGS[name]) is None:
        written = [llama.generate(ids, **plain)[0, ids.shape[1] :].tolist() for ids in prompts]
    else:
        written = [dola.generate(llama, ids, dola_layers=config, **plain)[0, ids.shape[1] :].tolist() for ids in prompts]
    other = [[*tokens[:-1], (tokens[-1] + 1) % 401] for tokens in written]
    found = score(llama, {name: config}, continuations=list(zip(written, other, strict=True)))
    assert found.greedy[name] == [[True, False]] * len(CONTEXTS)


def test_without_a_premature_layer_the_constraint_is_left(llama):
    configs = {
        "plain": None,
        "all": Recipe(DoLaConfig(relative_top=0.0), premature="none"),
        "some": Recipe(DoLaConfig(relative_top=0.5), premature="none", softmax="none", floor=-9.0),
    }
    found = score(llama, configs)
    assert flat(found.values["all"]).tolist() == pytest.approx(flat(found.values["plain"]).tolist(), abs=1e-5)
    outside = flat(found.implausible["some"])
    assert outside.sum() > 0
    assert (flat(found.values["some"]) <= -9 * outside + 1e-6).all()
    assert found.layers["some"] == [{}] * len(CONTEXTS)


def test_batches_and_shared_prefixes_change_nothing(llama):
    """In float64 rounding is too small to change which layer is chosen."""
    model = copy.deepcopy(llama).double()
    whole = score(model)
    apart = score(model, batch_tokens=1)
    backwards = score(model, contexts=CONTEXTS[::-1], continuations=CONTINUATIONS[::-1])
    for name in CONFIGS:
        torch.testing.assert_close(flat(whole.values[name]), flat(apart.values[name]), atol=1e-9, rtol=0)
        assert whole.layers[name] == apart.layers[name]
        torch.testing.assert_close(flat(whole.values[name]), flat(backwards.values[name][::-1]), atol=1e-9, rtol=0)


def test_shared_beginnings_run_once(llama):
    tokens = []
    handle = llama.register_forward_pre_hook(lambda m, args: tokens.append(args[0].numel()))
    try:
        score(llama)
    finally:
        handle.remove()
    alone = sum(len(c) + len(t) - 1 for c, ts in zip(CONTEXTS, CONTINUATIONS, strict=True) for t in ts)
    assert sum(tokens) < alone / 2


def test_only_positions_of_continuations_reach_the_head(llama):
    rows = []
    handle = llama.lm_head.register_forward_pre_hook(lambda m, args: rows.append(args[0].shape[:-1].numel()))
    forwards = []
    also = llama.model.layers[0].register_forward_pre_hook(lambda m, args: forwards.append(len(args[0])))
    try:
        score(llama, {"static": DoLaConfig([3])})
    finally:
        handle.remove()
        also.remove()
    scored = sum(len(t) for ts in CONTINUATIONS for t in ts)
    # Of every forward the last position's logits, which cannot be had without; one row to check the readout by; and, because
    # there is a hook on the head, three that show whether it changes a row with the rows beside it.
    assert sum(rows) == 2 * scored + sum(forwards) + 1 + 3


def test_a_mean_is_the_sum_over_the_number_of_tokens(llama):
    found = score(llama, {"sum": DoLaConfig(), "mean": Recipe(DoLaConfig(), mean=True)})
    for item, tokens in enumerate(found.tokens):
        means = [value / count for value, count in zip(found.values["sum"][item], tokens, strict=True)]
        assert found.values["mean"][item] == pytest.approx(means, rel=1e-5)


def test_random_layers_differ_by_token_and_repeat_between_runs(llama):
    configs = {"random": Recipe(DoLaConfig("all"), premature="random", seed=3)}
    long = [[list(range(50, 150))]]
    first, again = (score(llama, configs, contexts=[STEM], continuations=long) for _ in "ab")
    other = score(llama, {"random": Recipe(DoLaConfig("all"), premature="random", seed=4)}, contexts=[STEM], continuations=long)
    assert first.values == again.values != other.values
    shares = first.layer_shares("random")
    assert set(shares) == set(range(6))
    assert max(shares.values()) < 0.35


def test_layers_chosen_are_counted(llama):
    found = score(llama)
    assert sum(found.layers["high"][1].values()) == 9
    assert set(found.layer_shares("high")) <= {3, 5}
    assert sum(found.layer_shares("all").values()) == pytest.approx(1)


def test_bare_layers_are_those_of_dola(llama):
    found = score(llama, {"bucket": "high", "config": dola.DoLaConfig("high"), "list": [3, 5], "same": dola.DoLaConfig([3, 5])})
    assert found.values["bucket"] == found.values["config"]
    assert found.values["list"] == found.values["same"]
    with pytest.raises(LayersError, match="layer 6 in layers="):
        score(llama, {"no such layer": [6]})


def test_text_is_split_where_the_context_alone_ends(llama):
    tokenizer = word_tokenizer()
    found = dola.score(llama, tokenizer, ["word20 word21"], [[" word22 word23"]], {"vanilla": None}, progress=False)
    ids = tokenizer("word20 word21 word22 word23")["input_ids"]
    expected = score(llama, {"vanilla": None}, contexts=[ids[:-2]], continuations=[[ids[-2:]]])
    assert found.values == expected.values


@pytest.mark.parametrize("adds", ["end", "both", "two at the end"])
def test_tokens_that_the_tokenizer_appends_are_not_scored(llama, adds):
    """Cut at the length of a context with its end token, the continuation's first token would be that end token."""
    contexts, continuations = ["The capital is", "Hi</s>"], [[" Olympia", " Seattle, it is", "</s>"], [" there</s>", "x"]]
    plain = odd_tokenizer("start" if adds != "end" else "nothing")
    wanted = dola.score(llama, plain, contexts, continuations, CONFIGS, progress=False)
    found = dola.score(llama, odd_tokenizer(adds), contexts, continuations, CONFIGS, progress=False)
    assert (found.values, found.tokens, found.greedy) == (wanted.values, wanted.tokens, wanted.greedy)
    before, whole = (plain(text)["input_ids"] for text in ("The capital is", "The capital is Olympia"))
    log_p = llama(torch.tensor([whole])).logits[0].log_softmax(dim=-1)
    by_hand = sum(float(log_p[i - 1, whole[i]]) for i in range(len(before), len(whole)))
    assert found.values["vanilla"][0][0] == pytest.approx(by_hand, abs=1e-3)


def test_a_token_that_the_model_has_no_embedding_for(llama):
    tokenizer = odd_tokenizer(extra=1)
    for context, continuation in (("Hi<extra0>", " there"), ("Hi", "<extra0>"), ([5], "<extra0>"), ([401], [5]), ([5], [401])):
        with pytest.raises(InputError, match=r"token 401 \('<extra0>'\), .* embeddings for 401 tokens"):
            dola.score(llama, tokenizer, [context], [[continuation]], {"vanilla": None}, progress=False)
    with pytest.raises(InputError, match="'Hi' is a text, but no tokenizer was given"):
        score(llama, contexts=["Hi"], continuations=[[[5]]])


def test_a_context_beyond_the_window_is_cut_on_the_left_and_reported(llama):
    long = [7] * 300
    with pytest.warns(UserWarning, match="1 of 2 contexts do not fit the model's window of 256 tokens"):
        found = score(llama, {"vanilla": None}, contexts=[long, STEM], continuations=[[[3, 4]], [[5]]])
    assert found.truncated == [0]
    expected = score(llama, {"vanilla": None}, contexts=[[7] * 255], continuations=[[[3, 4]]])
    assert found.values["vanilla"][0] == pytest.approx(expected.values["vanilla"][0], abs=1e-5)


@pytest.mark.parametrize(
    ("contexts", "continuations", "message"),
    [
        ([[1]], [], "1 contexts and 0 lists of continuations"),
        ([[1]], [[]], "item 0 has no list of continuations"),
        ([[1]], ["yes"], "item 0 has no list of continuations: 'yes'"),
        ([[1]], [[[2], []]], "the continuation of item 0, continuation 1, has no tokens"),
        ([[]], [[[2]]], "the context of item 0, continuation 0, has no tokens"),
        ([[1]], [[[2] * 400]], "has 400 tokens; the model's window is 256"),
    ],
)
def test_bad_input(llama, contexts, continuations, message):
    with pytest.raises(InputError, match=message):
        score(llama, contexts=contexts, continuations=continuations)


@pytest.mark.parametrize(
    ("contexts", "continuations", "message"),
    [
        ("ab", [["a"], ["b"]], "contexts is str, not a list"),
        (5, [["a"]], "contexts is int, not a list"),
        (["a"], {"a": "b"}, "continuations is dict, not a list"),
        (["a"], [5], "item 0 has no list of continuations: 5"),
        ([None], [["a"]], "None is neither a text nor a list of tokens"),
        ([[5]], [[7.5]], "7.5 is neither a text nor a list of tokens"),
        ([b"a"], [["a"]], "Tokens were given as bytes"),
        (["word1"], [[""]], "has no tokens: ''"),
        (["aaa"], [["b"]], "the tokenizer joins 'b' with the end of its context"),
    ],
)
def test_arguments_of_another_kind(llama, contexts, continuations, message):
    with pytest.raises(InputError, match=message):
        dola.score(llama, odd_tokenizer(), contexts, continuations, CONFIGS, progress=False)


def test_bad_configurations(llama):
    with pytest.raises(LayersError, match="layer 6 in"):
        score(llama, {"it": DoLaConfig([6])})
    with pytest.raises(ConfigError, match="softmax='all' is unknown"):
        Recipe(None, softmax="all")
    with pytest.raises(ConfigError, match="premature='first' is unknown"):
        Recipe(None, premature="first")
    with dola.attach(llama), pytest.raises(AttachError, match="has DoLa attached"):
        score(llama)


def test_nothing_to_score(llama):
    assert score(llama, contexts=[], continuations=[]).values == {name: [] for name in CONFIGS}


def killed_after(items, path):
    """What a kill leaves: the file after `items` complete lines and half of another."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: 1 + items]) + lines[-1][:10])


@pytest.mark.parametrize("items", [0, 1, 3, 4])
def test_an_interrupted_run_resumes_and_ends_with_the_same_numbers(llama, tmp_path, items):
    path = tmp_path / "results.jsonl"
    whole = score(llama, results=path)
    content = path.read_bytes()
    killed_after(items, path)
    forwards = []
    handle = llama.register_forward_pre_hook(lambda m, args: forwards.append(args[0].numel()))
    try:
        assert score(llama, results=path) == whole
        assert sum(forwards) > 0
        forwards.clear()
        assert score(llama, results=path) == whole  # nothing is left to do
        assert forwards == []
    finally:
        handle.remove()
    assert sorted(path.read_bytes().splitlines()) == sorted(content.splitlines())


@pytest.mark.skipif(os.name == "nt", reason="files are not locked on Windows")
def test_two_runs_do_not_write_one_file(llama, tmp_path):
    path = tmp_path / "results.jsonl"
    whole = score(llama, results=path)
    with path.open("a") as other:
        import fcntl

        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="is being written by another process"):
            score(llama, results=path)
    assert score(llama, results=path) == whole


@pytest.mark.parametrize("length", [0, 5, 30])
def test_a_half_written_header_is_written_again(llama, tmp_path, length):
    path = tmp_path / "results.jsonl"
    whole = score(llama, results=path)
    content = path.read_bytes()
    path.write_bytes(content[:length])
    assert score(llama, results=path) == whole
    assert path.read_bytes() == content


def test_a_results_file_of_another_run_is_refused_and_left_alone(llama, tmp_path):
    path = tmp_path / "results.jsonl"
    score(llama, results=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"belongs to a different run \(configurations: "):
        score(llama, {"vanilla": None}, results=path)
    with pytest.raises(InputError, match=r"belongs to a different run \(data: None in the file, SHA-256 abc now\)"):
        score(llama, results=path, facts={"data": "SHA-256 abc"})
    with pytest.raises(InputError, match=r"belongs to a different run \(texts: "):
        score(llama, contexts=CONTEXTS[::-1], continuations=CONTINUATIONS[::-1], results=path)
    assert path.read_bytes() == before
    head = before.partition(b"\n")[0] + b"\n"
    strange = (b"my notes", b"my notes\n", b'{"schema": "x"}\n', b"[1]\n", b"3\n", b"[" * 200_000 + b"\n")
    odd = (
        b'{"schema": "dola.results/1", "run": [1]}\n',
        b'{"schema": "dola.results/1"}\n',
        head + b'{"item": "0", "found": 1}\n',
    )
    for content in (*strange, *odd, (head * 2).decode().encode("utf-16")):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"was not written by dola|has schema"):
            score(llama, results=path)
        assert path.read_bytes() == content
    with pytest.raises(InputError, match="Is a directory"):
        score(llama, results=tmp_path)


@pytest.mark.parametrize("found", [5, None, [], [{}], [{"tokens": 3, "it": 1}], [{"tokens": 3, "it": {"value": None}}]])
@pytest.mark.parametrize("item", [0, 99, -1])
def test_a_results_file_that_is_damaged_is_refused_and_left_alone(llama, tmp_path, item, found):
    path = tmp_path / "results.jsonl"
    run = {"contexts": [STEM], "continuations": [[[3, 9, 12]]], "configs": {"it": None}, "progress": False, "results": path}
    dola.score(llama, None, **run)
    head, whole, _ = path.read_text().split("\n")
    if item:
        found = json.loads(whole)["found"]
    path.write_text(f"{head}\n{json.dumps({'item': item, 'found': found})}\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"is damaged: what it holds for item {item} is not a result of this run"):
        dola.score(llama, None, **run)
    assert path.read_bytes() == before


def test_what_is_read_is_one_layer_at_a_time(llama, monkeypatch):
    """Memory: never more than one premature distribution beside the mature one, in chunks of rows."""
    shapes = []
    readout = dola.Anatomy.readout

    def watched(self, hidden, **settings):
        shapes.append(tuple(hidden.shape))
        return readout(self, hidden, **settings)

    monkeypatch.setattr(dola.Anatomy, "readout", watched)
    monkeypatch.setattr("dola.decoding.step.CHUNK_ELEMENTS", {"cpu": 4 * 401})
    whole = score(llama, {"all": DoLaConfig("all")})
    assert all(len(shape) == 2 and shape[0] <= 4 for shape in shapes)
    monkeypatch.undo()
    torch.testing.assert_close(flat(whole.values["all"]), flat(score(llama, {"all": DoLaConfig("all")}).values["all"]))


def test_captured_layers_are_the_models_hidden_states(family):
    _, model = family
    ids = torch.tensor([[5, 17, 200, 33]])
    with torch.no_grad():
        expected = model(ids, output_hidden_states=True).hidden_states
        with captured(dola.Anatomy.of(model), [0, 2]) as hidden:
            model(ids)
    assert sorted(hidden) == [0, 2, 6]
    torch.testing.assert_close(hidden[0], expected[0])
    torch.testing.assert_close(hidden[2], expected[2])


def test_a_model_with_a_recurrent_state_shares_nothing():
    """Its cache cannot be copied and continued."""
    lines = [Line(tuple(context), len(context) - 1) for context in CONTEXTS]
    tree = plan(lines, batch_tokens=1000, share=False)
    assert [len(batch.rows) for batch in tree.all_batches()] == [5]
    assert tree.end == 0
    assert plan(lines, batch_tokens=1000).children


def test_json_of_a_results_file(llama, tmp_path):
    path = tmp_path / "results.jsonl"
    score(llama, {"vanilla": None}, results=path)
    head, *items = map(json.loads, path.read_text().splitlines())
    assert head["schema"] == "dola.results/1"
    assert {"model", "configurations", "texts", "versions"} <= set(head["run"])
    assert sorted(item["item"] for item in items) == list(range(len(CONTEXTS)))
    assert math.isfinite(items[0]["found"][0]["vanilla"]["value"])


def test_parts_that_do_not_reproduce_the_models_logits_are_refused(llama):
    model = copy.deepcopy(llama)
    model.register_forward_hook(lambda module, args, output: output.__setitem__("logits", output.logits * 0.5))
    with pytest.raises(ReadoutError, match="does not reproduce its logits"):
        score(model)


def test_a_model_in_training_mode_is_refused(llama):
    with pytest.raises(InputError, match="training mode"):
        score(copy.deepcopy(llama).train())


def test_forwards_of_other_threads_are_not_scored(llama):
    expected, stop = score(llama), threading.Event()

    def busy():
        with torch.no_grad():
            while not stop.is_set():
                llama(torch.tensor([[9, 8, 7, 6, 5]]))

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        assert all(score(llama).values == expected.values for _ in range(5))
    finally:
        stop.set()
        thread.join()


def test_results_of_other_weights_are_refused(llama, tmp_path):
    path = tmp_path / "results.jsonl"
    score(llama, {"vanilla": None}, results=path)
    other = copy.deepcopy(llama)
    with torch.no_grad():
        other.model.layers[2].mlp.up_proj.weight.mul_(1.1)
    with pytest.raises(InputError, match=r"belongs to a different run \(weights: "):
        score(other, {"vanilla": None}, results=path)


def test_random_recipes_of_one_call_are_drawn_apart(llama):
    configs = {str(seed): Recipe(DoLaConfig("all"), premature="random", seed=seed) for seed in (0, 1)}
    long = [[list(range(50, 150))]]
    found = score(llama, configs, contexts=[STEM], continuations=long)
    assert found.values["0"] != found.values["1"]
    alone = score(llama, {"1": configs["1"]}, contexts=[STEM], continuations=long)
    assert alone.values["1"] == found.values["1"]


def test_texts_that_grow_step_by_step(llama):
    """Nested prefixes: no more caches at a time than allowed, and the same numbers."""
    contexts = [[5 + i % 90 for i in range(length)] for length in range(8, 250, 8)]
    model = copy.deepcopy(llama).double()
    found = score(model, contexts=contexts, continuations=[[[3, 4]]] * len(contexts))
    for context, values in list(zip(contexts, found.values["high"], strict=True))[::7]:
        alone = score(model, contexts=[context], continuations=[[[3, 4]]])
        assert values == pytest.approx(alone.values["high"][0], abs=1e-9)
    tree, depth = plan([Line(tuple(range(8 * n)), 8 * n - 1) for n in range(1, 1500)], batch_tokens=1000), 0
    while tree.children:
        tree, depth = tree.children[0], depth + 1
    assert depth == MOST_NESTED


def test_a_cut_context_keeps_its_beginning_of_sequence_token(llama):
    tokenizer = word_tokenizer()
    long = [tokenizer.bos_token_id, *[7] * 300]
    with pytest.warns(UserWarning, match="were cut on the left"):
        found = dola.score(llama, tokenizer, [long], [[[3, 4]]], {"vanilla": None}, progress=False)
    expected = score(llama, {"vanilla": None}, contexts=[[tokenizer.bos_token_id, *[7] * 254]], continuations=[[[3, 4]]])
    assert found.values["vanilla"][0] == pytest.approx(expected.values["vanilla"][0], abs=1e-5)


def test_models_with_a_recurrent_state():
    torch.manual_seed(0)
    model = MambaForCausalLM(MambaConfig(vocab_size=401, hidden_size=32, num_hidden_layers=4, state_size=4, expand=2)).eval()
    torch.testing.assert_close(flat(score(model).values["high"]), by_forwards(model, CONFIGS["high"]), atol=2e-3, rtol=1e-4)
