"""What each field of a generation config means for the verbs: the table, and the calls that use it."""

import json
import threading
from contextlib import suppress

import pytest
import torch
from command import ROOT, save, tokenizer
from families import tiny
from transformers import GenerationConfig, StopStringCriteria

import dola
from dola.cli.decoding import Decoding, decode
from dola.decoding.as_asked import generate_as_asked
from dola.errors import ConfigError, InputError, ModelError, ModelFileError
from dola.loading.generation_file import checked_generation_config
from dola.model.generation_fields import ASIDE, FIELDS, HARNESS, KEPT, REFUSED, end_tokens, review, switched_off
from dola.tracing.live import follow

CALL = {"do_sample": False, "max_new_tokens": 6, "repetition_penalty": 1.2}
ASKED_FOR_MORE = {
    "num_beams": 2, "num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True, "output_logits": True,
    "penalty_alpha": 0.6, "top_k": 4, "guidance_scale": 2.0, "prompt_lookup_num_tokens": 3, "max_time": 1e-9,
    "no_repeat_ngram_size": 1, "dola_layers": "low", "token_healing": True, "is_assistant": True,
}  # fmt: skip


@pytest.fixture
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def made():
    return tokenizer()


@pytest.fixture
def inputs(made):
    return dict(made(["Hi there", "Once upon a time"], return_tensors="pt", padding=True, padding_side="left"))


def rows(model, made, inputs, **call):
    return generate_as_asked(model, made, inputs, {**CALL, **call}).rows


def test_each_field_of_the_table_is_on_the_page():
    page = (ROOT / "docs" / "models.md").read_text()
    assert [name for name in FIELDS if f"`{name}`" not in page] == []


def test_fields_that_change_nothing_are_not_reported():
    defaults = {
        name: value for name, value in GenerationConfig._get_default_generation_params().items() if name != "max_length"
    }
    found = review(GenerationConfig(**defaults))
    assert (found.kept, found.option, found.aside, found.refused, found.unknown) == ({}, {"top_k": 50}, {}, {}, {})
    assert review(None) == review(GenerationConfig())


def test_every_field_that_is_not_kept_has_a_reason():
    assert all(known.why for known in FIELDS.values() if known.meaning != KEPT)


def test_arguments_of_the_call_are_never_switched_off():
    found = review(GenerationConfig(num_beams=4, top_k=3, repetition_penalty=2.0, bad_words_ids=[[3]]))
    assert switched_off(found, {"num_beams": 2}) == {"top_k": 0, "repetition_penalty": 1.0}
    assert switched_off(found, {}, kept=HARNESS) == {"num_beams": 1}


def test_ignored_fields_change_no_token_and_are_reported_once(model, made, inputs, caplog):
    expected = rows(model, made, inputs)
    for name, value in ASKED_FOR_MORE.items():
        setattr(model.generation_config, name, value)
    assert rows(model, made, inputs) == expected
    (line,) = caplog.messages
    aside = [name for name in ASKED_FOR_MORE if FIELDS[name].meaning == ASIDE]
    assert len(aside) > 8
    assert all(f"{name}=" in line for name in [*aside, "no_repeat_ngram_size"])
    rows(model, made, inputs)
    assert len(caplog.messages) == 1


def test_with_dola_too(model, made, inputs):
    with dola.attach(model, "high"):
        expected = rows(model, made, inputs)
    for name, value in ASKED_FOR_MORE.items():
        setattr(model.generation_config, name, value)
    with dola.attach(model, "high"):
        assert rows(model, made, inputs) == expected


@pytest.mark.parametrize("name", [name for name, known in FIELDS.items() if known.meaning == REFUSED])
def test_fields_that_cannot_be_ignored_are_refused(model, made, inputs, name):
    setattr(model.generation_config, name, [[5]])
    with pytest.raises(ModelError, match=name) as caught:
        rows(model, made, inputs)
    assert "generation_config.json" in caught.value.hint


def test_kept_fields_act_as_in_transformers(model, made, inputs):
    wishes = {
        "suppress_tokens": [30, 67],
        "bad_words_ids": [[392]],
        "sequence_bias": [[[9], 60.0]],
        "min_new_tokens": 3,
        "eos_token_id": [2, 9],
        "use_cache": False,
    }
    plain = rows(model, made, inputs)
    model.generation_config = GenerationConfig(**wishes)
    kept = rows(model, made, inputs)
    assert kept != plain
    output = model.generate(**inputs, **CALL, pad_token_id=0)[:, inputs["input_ids"].shape[1] :].tolist()
    assert [row[: len(ours)] for row, ours in zip(output, kept, strict=True)] == kept
    assert all(row[len(ours) :].count(0) == len(row) - len(ours) for row, ours in zip(output, kept, strict=True))


def test_stop_strings_end_a_row_where_they_end_it_alone(model, made, inputs):
    """A batch runs until its last row is done, and without an end token transformers does not pad the others."""
    free = rows(model, made, inputs, max_new_tokens=12)
    stop = made.decode([free[0][3]])
    model.generation_config.stop_strings = [stop]
    made_rows = generate_as_asked(model, made, inputs, {**CALL, "max_new_tokens": 12})
    criterion = StopStringCriteria(made, [stop])
    for row, ended, whole, prompt in zip(made_rows.rows, made_rows.ended, free, inputs["input_ids"], strict=True):
        lengths = [n for n in range(1, 13) if criterion(torch.cat([prompt, torch.tensor(whole[:n])])[None], None)]
        assert row == whole[: lengths[0] if lengths else 12]
        assert ended == bool(lengths)
    assert made_rows.ended[0]


def test_stop_strings_of_the_call_are_added_to_the_models(model, made, inputs):
    free = rows(model, made, inputs, max_new_tokens=12)
    model.generation_config.stop_strings = "no such text"
    stopped = rows(model, made, inputs, max_new_tokens=12, stop_strings=[made.decode([free[0][1]])])
    assert len(stopped[0]) <= 2


def test_a_stop_string_is_a_reason_to_finish(model, made, inputs):
    free = rows(model, made, inputs)
    model.generation_config.stop_strings = [made.decode([free[0][2]])]
    one = {name: value[:1] for name, value in made(["Hi there"], return_tensors="pt").items()}
    (completion,) = decode(model, made, one, Decoding(6, 1.2)).completions
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize(
    ("ends", "expected"), [(None, set()), (2, {2}), ([2, 9], {2, 9}), ((2,), {2}), ([], set()), (2.0, {2}), ([-1], {-1})]
)
def test_end_tokens(ends, expected):
    assert end_tokens(GenerationConfig(eos_token_id=ends)) == expected


@pytest.mark.parametrize("ends", ["abc", True, [[2]], 2.5, float("nan"), [2, "x"], {"a": 1}])
def test_invalid_end_tokens(model, made, inputs, ends):
    model.generation_config.eos_token_id = ends
    with pytest.raises(ModelError, match="eos_token_id"):
        rows(model, made, inputs)


def test_an_end_token_that_the_model_cannot_write_is_reported(model, made, inputs, caplog):
    expected = rows(model, made, inputs)
    model.generation_config.eos_token_id = [-1, 999]
    assert rows(model, made, inputs) == expected
    assert "-1, 999" in caplog.text


@pytest.mark.parametrize("name", ["pad_token_id", "eos_token_id"])
@pytest.mark.parametrize("value", [None, 100_000, -5])
def test_ids_to_pad_with_that_the_model_lacks_change_no_token(model, inputs, name, value):
    made = tokenizer()
    expected = rows(model, made, inputs)
    setattr(made, name, None)
    model.generation_config = GenerationConfig(**{name: value})
    assert rows(model, made, inputs) == expected


def test_the_field_at_fault_is_named(model, made, inputs):
    model.generation_config = GenerationConfig(suppress_tokens=[3], bad_words_ids=[], min_new_tokens=1, eos_token_id=2)
    with pytest.raises(ModelError, match=r"bad_words_ids=\[\].*non-empty list") as caught:
        rows(model, made, inputs)
    assert "suppress_tokens" not in caught.value.message


def test_an_error_that_is_not_the_configs_comes_through(model, made, inputs):
    model.generation_config.suppress_tokens = [3]

    def fails(**call):
        raise KeyError("ours")

    with pytest.raises(KeyError, match="ours"):
        generate_as_asked(model, made, inputs, CALL, generate=fails)


def test_an_unknown_field_is_reported(model, made, inputs, caplog):
    model.generation_config = GenerationConfig(steering_strength=3)
    rows(model, made, inputs)
    assert "steering_strength=3" in caplog.text


def test_threads_with_the_same_model_do_not_see_each_other(model, made, inputs):
    expected = rows(model, made, inputs)
    for name, value in ASKED_FOR_MORE.items():
        setattr(model.generation_config, name, value)
    own, found = dict(vars(model.generation_config)), []
    threads = [threading.Thread(target=lambda: found.append(rows(model, made, inputs))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4
    assert vars(model.generation_config) == own


def test_a_live_trace_and_a_trace(model, made):
    plain = dola.trace(model, made, "Hi there", "high", generate=4)
    for name, value in ASKED_FOR_MORE.items():
        setattr(model.generation_config, name, value)
    low = dola.trace(model, made, "Hi there", generate=4)
    assert low.settings["layers"] == "low"
    assert dola.trace(model, made, "Hi there", "high", generate=4).tokens == plain.tokens
    *_, last = follow(model, made, made("Hi there")["input_ids"], "high", generate=4, decode=["dola"])
    assert list(last.token_ids) == [token.token for token in plain.tokens]


# The file.


def written(folder, content):
    folder.joinpath("generation_config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return str(folder)


def test_a_file_that_is_right_needs_nothing(tmp_path):
    assert checked_generation_config(str(tmp_path), {}) == {}
    assert checked_generation_config(written(tmp_path, {"do_sample": True, "num_beams": 3}), {}) == {}


@pytest.mark.parametrize("content", ['{"eos_token_id": 2', "", "[1, 2]", "2", "\ufeff{}"])
def test_a_file_that_is_not_an_object(tmp_path, content):
    with pytest.raises(ModelFileError, match=r"generation_config\.json"):
        checked_generation_config(written(tmp_path, content), {})
    assert checked_generation_config(str(tmp_path), {"generation_config": GenerationConfig()}) == {}


def test_what_verbs_do_not_use_is_left_out(tmp_path, caplog):
    found = checked_generation_config(written(tmp_path, {"num_return_sequences": 3, "eos_token_id": 9}), {})
    assert found["generation_config"].eos_token_id == 9
    assert found["generation_config"].num_return_sequences is None
    assert "num_return_sequences=3" in caplog.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("watermarking_config", {"x": 1}),
        ("cache_implementation", "abc"),
        ("compile_config", {"mode": "x"}),
        ("pad_token_id", "x"),
        ("streamer", 1),
        ("suppress_tokens", 5),
    ],
)
def test_what_transformers_refuses_and_cannot_be_left_out_is_named(tmp_path, name, value):
    with suppress(Exception):
        GenerationConfig(**{name: value})
        pytest.skip("this transformers takes it, and fails when it decodes")
    with pytest.raises(ModelFileError, match=name):
        checked_generation_config(written(tmp_path, {"min_p": 0.1, name: value}), {})


def test_a_config_json_with_fields_of_decoding(tmp_path, caplog):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "num_return_sequences": 3, "eos_token_id": 9}))
    assert checked_generation_config(str(tmp_path), {})["generation_config"].eos_token_id == 9
    assert "config.json" in caplog.text
    (tmp_path / "config.json").write_text("{")  # which loading the model reports
    assert checked_generation_config(str(tmp_path), {}) == {}


def test_fields_that_transformers_drops_are_reported(tmp_path, caplog):
    folder = save(tmp_path / "model")
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "_from_model_config": True, "steering": 1}))
    dola.load(folder)
    assert "steering=1" in caplog.text


# Layers.

PROMPT = torch.tensor([[5, 17, 200, 31]])


def tokens(model, **call):
    return dola.generate(model, PROMPT, **CALL, pad_token_id=0, **call).tolist()


@pytest.mark.parametrize("own", ["low", [0, 1], (2,)])
def test_without_an_argument_the_generation_configs_layers_are_used(model, own):
    expected, high = tokens(model, dola_layers=own), tokens(model, dola_layers="high")
    assert expected != high
    model.generation_config.dola_layers = own
    assert tokens(model) == expected
    assert tokens(model, dola_layers="high") == high
    assert tokens(model, generation_config=GenerationConfig(dola_layers="high")) == high
    with dola.attach(model):
        assert model.generate(PROMPT, **CALL, pad_token_id=0).tolist() == expected
    with dola.attach(model, "high"):
        assert model.generate(PROMPT, **CALL, pad_token_id=0).tolist() == high


def test_without_any_layers_it_is_high(model):
    assert tokens(model) == tokens(model, dola_layers="high")
    with dola.attach(model) as attachment:
        assert attachment.config.layers == "high"


@pytest.mark.parametrize("own", ["abc", [99], 5, True, [], [-1], {"a": 1}])
def test_layers_that_are_not_allowed_are_the_generation_configs(model, own):
    model.generation_config.dola_layers = own
    with pytest.raises(ConfigError, match="generation config's dola_layers"):
        dola.attach(model)
    with pytest.raises(ConfigError, match="generation config's dola_layers"):
        tokens(model)
    assert tokens(model, dola_layers="high")


def test_the_layers_of_an_attached_model_cannot_be_changed_by_a_call(model):
    with dola.attach(model, "high"):
        expected = model.generate(PROMPT, **CALL, pad_token_id=0).tolist()
        for call in ({"dola_layers": "low"}, {"generation_config": GenerationConfig(dola_layers=[2])}):
            with pytest.raises(InputError, match="attached to this model with layers='high'"):
                model.generate(PROMPT, **CALL, pad_token_id=0, **call)
        assert model.generate(PROMPT, **CALL, pad_token_id=0, dola_layers="high").tolist() == expected


@pytest.mark.parametrize(
    "wish", [{"penalty_alpha": 0.6, "top_k": 4}, {"force_words_ids": [[5]]}, {"num_beams": 4, "num_beam_groups": 2}]
)
def test_methods_that_transformers_would_fetch_are_refused(model, wish):
    with pytest.raises(InputError, match="another method"):
        tokens(model, **wish)
    assert not hasattr(model, "dola")
    assert "_prepare_generation_config" not in vars(model)
