"""A model's own generation_config.json, through every verb that decodes: right, or refused in plain words."""

import json
import logging
import shutil

import pytest
import samples

import dola
from dola.decoding import as_asked as generation_call

MORE = {
    "num_beams": 2, "num_return_sequences": 2, "do_sample": True, "return_dict_in_generate": True, "output_scores": True,
    "penalty_alpha": 0.6, "guidance_scale": 2.0, "prompt_lookup_num_tokens": 3, "steering": 1, "_from_model_config": False,
}  # fmt: skip
SAID = [name for name in MORE if name != "_from_model_config"]
SHORT = ("--max-new-tokens", 4)


@pytest.fixture(autouse=True)
def _said_anew():
    """Make each run of the command report it, like a process of its own."""
    generation_call._said.clear()


@pytest.fixture
def changed(folder, tmp_path):
    """The tiny model with fields in its generation config."""

    def make(name="changed", base=folder, **fields):
        copy = shutil.copytree(base, tmp_path / name)
        path = copy / "generation_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
        return copy

    return make


@pytest.mark.parametrize("layers", [[], ["--layers", "off"]])
def test_generate_reports_the_fields_it_ignores(dola_command, changed, folder, layers):
    expected = dola_command("generate", "Hi", "-m", folder, *SHORT, *layers)
    ended = dola_command("generate", "Hi", "-m", changed(**MORE), *SHORT, *layers)
    assert (ended.code, ended.out) == (0, expected.out)
    assert all(f"{name}=" in ended.err for name in SAID)


def test_each_message_is_printed_once_with_its_origin(dola_command, changed, folder):
    """Log lines of the library and lines of the command look the same, and none is printed by Python's last resort as well."""
    ended = dola_command("generate", "Hi", "-m", changed(num_beams=2, dola_layers="low"), *SHORT)
    said = ended.err.splitlines()
    assert [line.split(":")[0] for line in said] == ["dola", "dola"]
    assert "dola_layers='low' of the model's generation config is used." in said[0]
    assert said[1].startswith("dola: Not used from the model's generation config: num_beams=2")
    assert logging.getLogger("dola").handlers == []


def test_compare(dola_command, changed, folder):
    expected = json.loads(dola_command("compare", "Hi", "-m", folder, *SHORT, "--json").out)
    ended = dola_command("compare", "Hi", "-m", changed(**MORE), *SHORT, "--json")
    columns = [column["token_ids"] for column in json.loads(ended.out)["columns"]]
    assert columns == [column["token_ids"] for column in expected["columns"]]
    assert all(f"{name}=" in ended.err for name in SAID)


def test_trace(dola_command, changed, folder):
    expected = json.loads(dola_command("trace", "Hi", "-m", folder, "--generate", 3, "--json").out)
    ended = dola_command("trace", "Hi", "-m", changed(**MORE), "--generate", 3, "--json")
    assert json.loads(ended.out)["tokens"] == expected["tokens"]
    assert all(f"{name}=" in ended.err for name in SAID)


def test_eval_and_tune(dola_command, changed, tmp_path):
    data = samples.gsm8k(tmp_path / "gsm8k.jsonl", 2)
    model = changed(base=samples.long_window(tmp_path / "long"), **MORE, stop_strings=["a", "e", "i", "o"])
    for verb in ("eval", "tune"):
        generation_call._said.clear()
        ended = dola_command(verb, "gsm8k", "--data", data, "-m", model, "--json")
        assert ended.code == 0
        assert all(f"{name}=" in ended.err for name in SAID)


def test_doctor_lists_it(dola_command, changed):
    ended = dola_command("doctor", changed(**MORE, bad_words_ids=[[3]]), "--json")
    check = next(check for check in json.loads(ended.out)["model"]["checks"] if check["name"] == "generation config")
    assert (ended.code, check["status"]) == (0, "warning")
    assert all(f"{name}=" in check["text"] for name in (*SAID, "bad_words_ids"))


@pytest.mark.parametrize("fields", [{"force_words_ids": [[5]]}, {"dola_layers": "none"}, {"dola_layers": [9]}])
def test_doctor_finds_what_is_refused(dola_command, changed, fields):
    ended = dola_command("doctor", changed(**fields), "--json")
    checks = {check["name"]: check["status"] for check in json.loads(ended.out)["model"]["checks"]}
    assert (ended.code, checks.pop("generation config")) == (1, "failed")
    assert set(checks.values()) == {"ok"}


def test_bench_reports_the_fields_it_ignores(dola_command, changed):
    asked = ["--new-tokens", 2, "--repeats", 1, "--prompt-lengths", 8, "--no-memory", "--no-old", "--json"]
    ended = dola_command("bench", "-m", changed(**MORE, dola_layers=[2]), *asked)
    assert json.loads(ended.out)["settings"]["dola"]["layers"] == [2]
    assert all(f"{name}=" in ended.err for name in (*SAID, "dola_layers"))


VERBS = [
    ("generate", "Hi", "-m"),
    ("generate", "Hi", "--layers", "off", "-m"),
    ("compare", "Hi", "-m"),
    ("trace", "Hi", "--generate", "2", "-m"),
]


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb[:-1]))
@pytest.mark.parametrize(
    "fields",
    [
        {"force_words_ids": [[5]]},
        {"constraints": [1]},
        {"bad_words_ids": []},
        {"eos_token_id": "abc"},
        {"stop_strings": [3]},
        {"min_length": "five"},
        {"cache_implementation": "none"},
        {"watermarking_config": {"x": 1}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_unsupported_fields_are_refused_by_name(dola_command, changed, verb, fields):
    ended = dola_command(*verb, changed(**fields))
    assert (ended.code, ended.out) == (2, "")
    lines = ended.err.splitlines()
    assert lines[-2].startswith("dola: ")
    assert next(iter(fields)) in lines[-2]
    assert lines[-1].startswith("Hint: ")


@pytest.mark.parametrize("content", ['{"eos_token_id": ', "[]"])
def test_a_broken_file(dola_command, changed, content):
    model = changed()
    (model / "generation_config.json").write_text(content)
    ended = dola_command("generate", "Hi", "-m", model)
    assert (ended.code, ended.out) == (2, "")
    assert "generation_config.json" in ended.err.splitlines()[0]


@pytest.mark.parametrize(
    ("own", "named", "candidates"), [("low", "low", [0, 2]), ([3, 4], "3,4", [3, 4]), ("high", "high", [3, 5])]
)
def test_the_models_own_layers(dola_command, changed, folder, own, named, candidates):
    expected = json.loads(dola_command("generate", "Hi", "-m", folder, *SHORT, "--layers", named, "--json").out)
    ended = dola_command("generate", "Hi", "-m", changed(dola_layers=own), *SHORT, "--json")
    made = json.loads(ended.out)
    assert made["token_ids"] == expected["token_ids"]
    assert (made["settings"]["layers"], made["settings"]["candidate_layers"]) == (named, candidates)
    assert f"--layers was not given: dola_layers={own!r}" in ended.err


@pytest.mark.parametrize("given", ["off", "all"])
def test_an_option_wins_over_the_models_own_layers(dola_command, changed, folder, given):
    for own in ("low", "nonsense"):
        ended = dola_command("generate", "Hi", "-m", changed(own, dola_layers=own), *SHORT, "--layers", given)
        assert ended.out == dola_command("generate", "Hi", "-m", folder, *SHORT, "--layers", given).out
        assert f"dola_layers={own!r}" in ended.err


def test_layers_of_a_config_file_are_an_option(dola_command, changed, tmp_path):
    (tmp_path / "settings.json").write_text('{"layers": "high"}')
    ended = dola_command(
        "generate", "Hi", "-m", changed(dola_layers="low"), *SHORT, "--config", tmp_path / "settings.json", "--json"
    )
    assert json.loads(ended.out)["settings"]["layers"] == "high"


def test_own_layers_of_other_verbs(dola_command, changed, tmp_path):
    model = changed(dola_layers=[4])
    trace = dola_command("trace", "Hi", "-m", model, "--json")
    assert json.loads(trace.out)["settings"]["layers"] == [4]
    compare = dola_command("compare", "Hi", "-m", model, *SHORT, "--json")
    assert [column["layers"] for column in json.loads(compare.out)["columns"]] == [None, None, "low", "high", [4]]
    data = samples.factor(tmp_path / "news_factor.csv", rows=3)
    evaluated = dola_command("eval", "factor-news", "--data", data, "-m", model, "--json")
    assert "DoLa 4" in [way["name"] for way in json.loads(evaluated.out)["ways"]]
    doctor = dola_command("doctor", model, "--json")
    assert json.loads(doctor.out)["model"]["layers"] == [4]
    assert all("dola_layers=[4]" in ended.err for ended in (trace, compare, evaluated))


def test_a_batch_of_a_model_with_stop_strings_is_each_prompt_alone(dola_command, changed, tmp_path):
    file = tmp_path / "prompts.txt"
    file.write_text("Hi there\nOnce upon a time\nThe quick brown fox\n")
    plain, tokenizer = dola.load(changed("plain"))
    del plain
    free = json.loads(dola_command("generate", "Hi there", "-m", changed("free"), "--max-new-tokens", 9, "--json").out)
    model = changed("stops", stop_strings=[tokenizer.decode([free["token_ids"][2]])])
    together = dola_command("generate", "--file", file, "-m", model, "--max-new-tokens", 9, "--json")
    alone = [
        dola_command("generate", line, "-m", model, "--max-new-tokens", 9, "--json") for line in file.read_text().splitlines()
    ]
    found = [json.loads(line) for line in together.out.splitlines()]
    for one, of_batch in zip([json.loads(ended.out) for ended in alone], found, strict=True):
        assert (of_batch["token_ids"], of_batch["finish_reason"]) == (one["token_ids"], one["finish_reason"])
    assert found[0]["finish_reason"] == "stop"
    assert len(found[0]["token_ids"]) <= 3
