"""`dola generate`: every option, on a tiny model."""

import io
import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest
import torch
from command import fields, save
from each_method import METHODS, each_method, on_command_line
from families import tiny
from odd_tokenizers import save_odd
from transformers import AutoTokenizer

import dola
from dola.cli.generate import SCHEMA, SCHEMA_NAME


@pytest.fixture
def generated(dola_command, folder):
    """The JSON of `dola generate` with some options."""

    def run(*arguments):
        ended = dola_command("generate", "-m", folder, "--json", *arguments)
        assert (ended.code, ended.err) == (0, "")
        (line,) = ended.out.splitlines()
        return json.loads(line)

    return run


def plain(folder, prompt, *, dola_layers=None, chat=True, **settings):
    """What transformers makes of it, without our command."""
    model, tokenizer = dola.load(str(folder))
    if chat:
        message = [{"role": "user", "content": prompt}]
        inputs = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    else:
        inputs = tokenizer(prompt, return_tensors="pt")
    call = {"do_sample": False, "max_new_tokens": 6, "repetition_penalty": 1.2, "pad_token_id": 0, **settings}
    if dola_layers is None:
        output = model.generate(**inputs, **call)
    else:
        output = dola.generate(model, **inputs, dola_layers=dola_layers, **call)
    return output[0, inputs["input_ids"].shape[1] :].tolist()


def test_the_completion_alone_is_printed(dola_command, folder):
    ended = dola_command("generate", "Hello there", "--model", folder, "--max-new-tokens", 6)
    _, tokenizer = dola.load(str(folder))
    expected = tokenizer.decode(plain(folder, "Hello there", dola_layers="high"), skip_special_tokens=True)
    assert ended == (0, expected + "\n", "")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], {"dola_layers": "high"}),
        (["--layers", "low"], {"dola_layers": "low"}),
        (["--layers", "all"], {"dola_layers": "all"}),
        (["--layers", "3,4"], {"dola_layers": [3, 4]}),
        (["--layers", "off"], {}),
        (["--no-chat"], {"dola_layers": "high", "chat": False}),
        (["--chat"], {"dola_layers": "high"}),
        (["--divergence", "reference"], {"dola_layers": dola.DoLaConfig("high", divergence="reference")}),
        (["--divergence", "jsd", "--final-norm"], {"dola_layers": "high"}),
        (["--no-final-norm"], {"dola_layers": dola.DoLaConfig("high", final_norm=False)}),
        (["--relative-top", "0.5"], {"dola_layers": dola.DoLaConfig("high", relative_top=0.5)}),
        (["--reference"], {"dola_layers": dola.DoLaConfig.reference()}),
        (["--reference", "--relative-top", "0"], {"dola_layers": replace(dola.DoLaConfig.reference(), relative_top=0)}),
        (["--repetition-penalty", "2"], {"dola_layers": "high", "repetition_penalty": 2.0}),
        (["--max-new-tokens", "9"], {"dola_layers": "high", "max_new_tokens": 9}),
        (["--device", "cpu"], {"dola_layers": "high"}),
        (["--device", "auto"], {"dola_layers": "high"}),
        (["--trust-remote-code"], {"dola_layers": "high"}),
    ],
)  # fmt: skip
def test_options_mean_what_the_library_means(generated, folder, options, expected):
    length = [] if "--max-new-tokens" in options else ["--max-new-tokens", "6"]
    made = generated("The quick brown fox", *length, *options)
    assert made["token_ids"] == plain(folder, "The quick brown fox", **expected)


def test_trust_remote_code_and_dtype_reach_the_loader(dola_command, folder, monkeypatch):
    seen = {}
    load = dola.load

    def spy(name, **settings):
        seen.update(settings)
        return load(name)

    monkeypatch.setattr(dola, "load", spy)
    dola_command("generate", "Hi", "-m", folder, "--max-new-tokens", 1)
    assert set(seen) == {"progress"}
    dola_command("generate", "Hi", "-m", folder, "--max-new-tokens", 1, "--trust-remote-code", "--dtype", "bfloat16")
    assert seen["trust_remote_code"] is True
    assert seen["dtype"] == torch.bfloat16


def test_dtype(generated):
    assert generated("Hi", "--dtype", "bfloat16", "--max-new-tokens", "2")["settings"]["dtype"] == "bfloat16"


def test_sampling_is_repeatable(generated):
    options = ["Once", "--max-new-tokens", "12", "--sample"]
    first = generated(*options, "--seed", "7")
    assert generated(*options, "--seed", "7")["token_ids"] == first["token_ids"]
    assert generated(*options, "--seed", "8")["token_ids"] != first["token_ids"]
    assert first["settings"]["seed"] == 7
    drawn = generated(*options)
    again = generated(*options, "--seed", drawn["settings"]["seed"])
    assert again["token_ids"] == drawn["token_ids"]


def test_temperature_and_top_p_tame_sampling(generated):
    greedy = generated("Once", "--max-new-tokens", "8")["token_ids"]
    sampled = ["Once", "--max-new-tokens", "8", "--sample", "--seed", "3"]
    assert generated(*sampled, "--temperature", "0.01")["token_ids"] == greedy
    assert generated(*sampled, "--top-p", "0")["token_ids"] == greedy
    settings = generated(*sampled, "--temperature", "2.5", "--top-p", "0.9")["settings"]
    assert (settings["temperature"], settings["top_p"]) == (2.5, 0.9)


def test_json_is_what_the_page_says(generated):
    made = generated("Hi", "--max-new-tokens", "3", "--layers", "3,5")
    assert made["schema"] == SCHEMA_NAME
    assert fields(made) == set(SCHEMA)
    assert made["finish_reason"] == "length"
    assert len(made["token_ids"]) == 3
    assert made["settings"]["candidate_layers"] == [3, 5]
    assert made["timings"]["tokens_per_second"] > 0


def test_json_without_dola(generated):
    settings = generated("Hi", "--max-new-tokens", "2", "--layers", "off")["settings"]
    assert settings["layers"] == "off"
    assert {settings[name] for name in ("candidate_layers", "relative_top", "divergence", "final_norm", "seed")} == {None}


def test_what_comes_after_the_end_is_cut_off(dola_command, tmp_path, folder):
    end = plain(folder, "Hi", dola_layers="high")[2]
    model = save(tmp_path / "ends", eos=end)
    made = json.loads(dola_command("generate", "Hi", "-m", model, "--json").out)
    assert made["finish_reason"] == "stop"
    assert made["token_ids"][-1] == end
    assert len(made["token_ids"]) <= 3


def test_a_list_of_end_tokens(dola_command, tmp_path, folder):
    end = plain(folder, "Hi", dola_layers="high")[2]
    model = save(tmp_path / "ends", eos=[2, end])
    assert json.loads(dola_command("generate", "Hi", "-m", model, "--json").out)["finish_reason"] == "stop"


@pytest.mark.parametrize("argument", [["-"], []])
def test_a_prompt_from_standard_input(generated, monkeypatch, argument):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\nthere\n"))
    assert generated(*argument, "--max-new-tokens", "1")["prompt"] == "Hello\nthere"


def test_json_is_escaped_where_stdout_is_not_unicode(generated, monkeypatch):
    from dola.cli import output

    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", written)
    output.print_json("test/1", {"text": "é😀"})
    assert json.loads(written.buffer.getvalue())["text"] == "é😀"


def test_config_file(generated, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"layers": [3, 4], "max-new-tokens": 2, "chat": false, "repetition-penalty": 1.5}')
    made = generated("Hi", "--config", path)
    assert made["settings"]["candidate_layers"] == [3, 4]
    assert made["settings"]["chat"] is False
    assert made["settings"]["repetition_penalty"] == 1.5
    assert len(made["token_ids"]) == 2
    flags_win = generated("Hi", "--config", path, "--layers", "low", "--chat", "--max-new-tokens", "1")
    assert (flags_win["settings"]["layers"], flags_win["settings"]["chat"]) == ("low", True)
    assert len(flags_win["token_ids"]) == 1


def test_prompts_of_a_text_file(dola_command, folder, tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("One\r\n\n二番目\nThree, which is longer than the others\n".encode())
    ended = dola_command("generate", "--file", path, "-m", folder, "--max-new-tokens", 6, "--json", "--batch-size", 2)
    made = [json.loads(line) for line in ended.out.splitlines()]
    assert [record["prompt"] for record in made] == ["One", "二番目", "Three, which is longer than the others"]
    assert [record["timings"]["batch"] for record in made] == [2, 2, 1]
    for record in made:  # left padding changes no row
        assert record["token_ids"] == plain(folder, record["prompt"], dola_layers="high")
    shown = dola_command("generate", "--file", path, "-m", folder, "--max-new-tokens", 6).out
    assert shown == "".join(record["text"] + "\n" for record in made)


def test_prompts_of_a_jsonl_file_keep_their_fields(dola_command, folder, tmp_path):
    path, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    path.write_text('{"prompt": "One", "id": 7, "text": "mine"}\n{"id": 8, "prompt": "Two"}')
    ended = dola_command("generate", "--file", path, "-m", folder, "--max-new-tokens", 2, "--output", output)
    assert ended == (0, "", "")
    made = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["fields"] for record in made] == [{"id": 7, "text": "mine"}, {"id": 8}]
    assert [record["index"] for record in made] == [0, 1]


def test_one_prompt_into_a_file(dola_command, folder, tmp_path):
    output = tmp_path / "answer.jsonl"
    assert dola_command("generate", "Hi", "-m", folder, "--max-new-tokens", 2, "--output", output).out == ""
    assert json.loads(output.read_text())["prompt"] == "Hi"


def test_a_generation_config_of_the_model_adds_no_filters(dola_command, folder, tmp_path):
    """The config asks for several answers and for filters; the user asked for neither."""
    changed = shutil.copytree(folder, tmp_path / "changed")
    path = changed / "generation_config.json"
    wishes = {
        "do_sample": True,
        "num_return_sequences": 2,
        "min_p": 1.0,
        "typical_p": 0.01,
        "no_repeat_ngram_size": 1,
        "top_h": 0.01,
    }
    path.write_text(json.dumps({**json.loads(path.read_text()), **wishes}))
    for how in (["--repetition-penalty", "1"], ["--sample", "--seed", "5"]):
        options = ["generate", "Hi", "--max-new-tokens", 12, "--layers", "off", *how]
        ended = dola_command(*options, "-m", changed)
        assert ended.code == 0
        assert ended.out == dola_command(*options, "-m", folder).out


def test_a_folder_whose_tokenizer_appends_an_end_token(tmp_path, dola_command):
    save_odd(tmp_path, adds="both")
    assert AutoTokenizer.from_pretrained(tmp_path)("Hi")["input_ids"] == [1, 44, 77, 2]
    arguments = ["-m", tmp_path, "--layers", "off", "--repetition-penalty", 1, "--max-new-tokens", 3, "--json"]
    found = json.loads(dola_command("generate", "Hi", *arguments).out)
    ids = torch.tensor([[1, 44, 77]])
    expected = tiny("llama").generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=3)
    assert (found["token_ids"], found["prompt_tokens"]) == (expected[0, 3:].tolist(), 3)


def test_prompts_of_a_file_for_a_tokenizer_that_cannot_pad(dola_command, base_folder, tmp_path):
    """A batch decodes what each prompt decodes alone."""
    (tmp_path / "two.txt").write_text("Hi\nHello there, old friend\n")
    arguments = ["generate", "-m", base_folder, "--file", tmp_path / "two.txt", "--max-new-tokens", 5, "--json"]
    together, alone = (dola_command(*arguments, "--batch-size", size) for size in (2, 1))
    assert (together.code, together.err) == (0, "")
    tokens = [[json.loads(line)["token_ids"] for line in ended.out.splitlines()] for ended in (together, alone)]
    assert tokens[0] == tokens[1]


@each_method
def test_each_method(generated, folder, name):
    made = generated("Hello there", "--max-new-tokens", 6, *on_command_line(METHODS[name]))
    assert made["token_ids"] == plain(folder, "Hello there", dola_layers=METHODS[name])


def test_another_method(dola_command, folder, toy):
    arguments = ("generate", "abc", "-m", folder, "--max-new-tokens", 6, "--no-chat", "--json")
    done, other = dola_command(*arguments, *toy), dola_command(*arguments)
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found["settings"]["method"] == "toy"
    assert found["settings"]["rate"] == 0.9
    assert found["token_ids"] != json.loads(other.out)["token_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--method", "slow"), "method='slow' is unknown; allowed are dola, confident, delta, sled, toy."),
        (("--method", "toy", "--set", "rate"), "--set 'rate' is not a name and a value."),
        (("--method", "toy", "--set", "rat=1"), "'rat' is not a setting of the method 'toy'"),
        (("--method", "toy", "--set", "rate=1", "--set", "rate=2"), "--set gives rate twice."),
        (("--method", "toy", "--relative-top", "0.1"), "--relative-top cannot be used with --method toy"),
        (("--method", "toy", "--reference"), "--reference cannot be used with --method toy"),
        (("--method", "toy", "--layers", "off"), "--method cannot be used with --layers off"),
        (("--set", "relative_top=0.2", "--relative-top", "0.1"), "relative_top was given by --set and by its option."),
        (("--set", "layers=low"), "--set cannot set layers: it has its own option, --layers."),
        (("--set", "relative_top=2"), "out of range"),
    ],
)
def test_mistakes_with_methods(dola_command, folder, toy, arguments, message):
    done = dola_command("generate", "abc", "-m", folder, "--max-new-tokens", 1, *arguments)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert "Hint: " in done.err


def test_dolas_settings_by_name_are_its_options(dola_command, folder):
    arguments = ("generate", "abc", "-m", folder, "--max-new-tokens", 3, "--no-chat", "--json")
    by_name = dola_command(
        *arguments, "--set", "relative_top=0.3", "--set", "divergence=reference", "--set", "final-norm=false"
    )
    by_option = dola_command(*arguments, "--relative-top", 0.3, "--divergence", "reference", "--no-final-norm")
    first, second = json.loads(by_name.out), json.loads(by_option.out)
    assert (first["token_ids"], first["settings"]) == (second["token_ids"], second["settings"])


@pytest.mark.skipif(find_spec("mlx") is not None, reason="MLX is installed: tests/apple run it")
def test_the_other_backend_is_refused_where_it_is_not_installed(dola_command, folder):
    same = ("generate", "The cat", "-m", folder)
    ended = dola_command(*same, "--backend", "mlx")
    assert (ended.code, ended.out) == (2, "")
    assert "needs mlx and mlx-lm" in ended.err
    assert "pip install" in ended.err.partition("Hint: ")[2]
    assert "'torch', 'mlx'" in dola_command(*same, "--backend", "jax").err
