"""`dola tune`: every option, its JSON, the file it writes, and what it refuses."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
import samples
import torch
from each_method import each_method

import dola
from dola import DoLaConfig
from dola.cli.tune import SCHEMA, SCHEMA_NAME
from dola.tasks import TASKS

MODULE = import_module("dola.evidence.chosen")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    samples.factor(folder / "news_factor.csv", rows=12)
    samples.gsm8k(folder / "test.jsonl", rows=5)
    return folder


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory):
    return samples.long_window(tmp_path_factory.mktemp("long"))


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch):
    task = TASKS["gsm8k"]
    monkeypatch.setitem(TASKS, "gsm8k", replace(task, generation=replace(task.generation, max_new_tokens=3)))


@pytest.fixture
def tuned(dola_command, long_folder, data):
    """The JSON of `dola tune` with some options."""

    def run(task, *arguments):
        ended = dola_command("tune", task, "--data", data, "--model", long_folder, "--json", *arguments)
        assert (ended.code, ended.err) == (0, "")
        return json.loads(ended.out)

    return run


@pytest.fixture
def gains(monkeypatch):
    """Make layer 3 right where no other layer is."""

    def measure(task, items, scores, name):
        return {"factor": [float(name == "layer 3")] * len(items), "factor_official": [0.0] * len(items)}

    monkeypatch.setattr(MODULE, "measure", measure)
    monkeypatch.setattr("dola.evidence.statistics.FEWEST_ITEMS", 5)


def test_json_is_what_the_schema_says_and_what_tune_finds(tuned, long_folder, data):
    found = tuned("factor-news", "--folds", 3, "--seed", 4, "--metric", "factor_official")
    assert (found.pop("schema"), found.pop("dola")) == (SCHEMA_NAME, dola.__version__)
    origins = found["origins"][0]
    assert {*(found.keys() - {"origins"}), *(f"origins[].{name}" for name in origins)} == set(SCHEMA)
    task = TASKS["factor-news"]
    items = task.items(data / "news_factor.csv")
    model = dola.load(str(long_folder))
    expected = dola.tune(*model, task, items, folds=3, seed=4, metric="factor_official", progress=False).to_json()
    assert {name: found[name] for name in expected} == json.loads(json.dumps(expected))
    assert len(found["chosen"]) == 3


def test_what_it_writes_is_read_by_other_verbs_and_from_file(tuned, gains, dola_command, long_folder, tmp_path):
    path = tmp_path / "tuned.json"
    found = tuned("factor-news", "--output", path, "--relative-top", "0.2")
    assert found["settings"] == json.loads(path.read_text())
    assert found["config"]["layers"] == [3]
    config = DoLaConfig([3], relative_top=0.2)
    assert DoLaConfig.from_file(path) == config
    ended = dola_command("generate", "Hi", "-m", long_folder, "--max-new-tokens", 2, "--json", "--config", path)
    settings = json.loads(ended.out)["settings"]
    assert (settings["candidate_layers"], settings["relative_top"]) == ([3], 0.2)


def test_off_is_read_by_other_verbs(tuned, dola_command, long_folder, tmp_path):
    path = tmp_path / "tuned.json"
    assert tuned("factor-news", "--output", path)["config"] is None
    ended = dola_command("generate", "Hi", "-m", long_folder, "--max-new-tokens", 2, "--json", "--config", path)
    assert json.loads(ended.out)["settings"]["layers"] == "off"


def test_the_output_for_people(dola_command, gains, long_folder, data):
    ended = dola_command("tune", "factor-news", "--data", data, "-m", long_folder)
    assert (ended.code, ended.err) == (0, "")
    text = " ".join(ended.out.split())
    assert "layer 3 100.0 2 of 2" in text
    assert "factor, held out: layer 3 100.0 against off 0.0 on 12 items, 100.0 points higher" in text
    assert "So: layer 3." in text
    assert max(map(len, ended.out.splitlines())) <= 80


def test_tasks_that_generate(tuned):
    options = ["--train", 2, "--static", "2,4", "--batch-size", 2, "--repetition-penalty", "1.3"]
    found = tuned("gsm8k", *options)
    assert list(found["candidates"]) == ["off", "low", "high", "layer 2", "layer 4", "off, penalty 1.3"]
    assert (found["gain"]["items"], found["items"]) == (3, 5)


def test_own_questions_after_examples(dola_command, long_folder, tmp_path):
    questions, shots = tmp_path / "questions.csv", tmp_path / "shots.csv"
    questions.write_text("question,answer,wrong\n" + "".join(f"Is {n} even?,{n},{n + 1}\n" for n in range(6)))
    shots.write_text("question,answer,wrong\nIs 7 even?,no,yes\n")
    command = ["tune", questions, "-m", long_folder, "--json"]
    found = json.loads(dola_command(*command, "--shots", shots, "--smallest", 20).out)
    assert (found["items"], found["finding"]["smallest"]) == (6, 0.2)
    assert found["candidates"] != json.loads(dola_command(*command).out)["candidates"]


def test_options(tuned, tmp_path):
    settings = tmp_path / "settings.json"
    settings.write_text('{"limit": 6, "seed": 3}')
    results = tmp_path / "results.jsonl"
    found = tuned("factor-news", "--config", settings, "--results", results)
    assert (found["items"], found["total"], found["seed"]) == (6, 12, 3)
    assert found == tuned("factor-news", "--limit", 6, "--seed", 3, "--results", results)
    assert len(results.read_text().splitlines()) == 7
    threads = torch.get_num_threads()
    other = tuned("factor-news", "--limit", 6, "--seed", 3, "--dtype", "bfloat16", "--device", "cpu", "--threads", 1,
                  "--trust-remote-code")  # fmt: skip
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    assert other["items"] == 6


@pytest.mark.parametrize(
    ("arguments", "what", "hint"),
    [
        (["mmlu"], "'mmlu' is not a task", "dola eval"),
        (["vicuna", "--data", "DATA/question.jsonl"], "vicuna has no metric to choose by", "truthfulqa-mc"),
        (
            ["factor-news", "--data", "DATA", "-m", "MODEL", "--metric", "mc1"],
            "'mc1' is not a metric of factor-news",
            "use factor",
        ),
        (["factor-news", "--data", "DATA", "--folds", "1"], "--folds 1 is out of range", "leave"),
        (["factor-news", "--data", "DATA", "-m", "MODEL", "--folds", "13"], "12 items cannot be split into 13 folds", "use 2"),
        (["factor-news", "--data", "DATA", "--train", "3"], "--train does not apply to factor-news", "omit --train"),
        (["factor-news", "--data", "DATA", "--static", "3"], "--static does not apply to factor-news", "omit --static"),
        (["gsm8k", "--data", "DATA", "--folds", "2"], "--folds does not apply to gsm8k", "omit --folds"),
        (["gsm8k", "--data", "DATA", "--static", "high"], "--static 'high' is not a list of numbers", "--static 8,14"),
        (
            ["gsm8k", "--data", "DATA", "-m", "MODEL", "--train", "5"],
            "Choosing on 5 of 5 items is not possible. Allowed: 1 to 4",
            "omit",
        ),
        (["factor-news", "--data", "DATA", "--output", "no/a.json"], "--output 'no/a.json': No such file", "check"),
    ],
)
def test_mistakes(dola_command, long_folder, data, tmp_path, monkeypatch, arguments, what, hint):
    monkeypatch.chdir(tmp_path)
    samples.vicuna(data / "question.jsonl")
    names = {"MODEL": str(long_folder)}
    ended = dola_command("tune", *(names.get(word, word.replace("DATA", str(data))) for word in arguments))
    assert (ended.code, ended.out) == (2, "")
    message, _, advice = ended.err.removeprefix("dola: ").rstrip("\n").partition("\nHint: ")
    assert what in message
    assert hint in advice


@each_method
def test_each_method(dola_command, long_folder, data, name):
    ended = dola_command("tune", "factor-news", "--data", data, "-m", long_folder, "--method", name, "--limit", 4, "--json")
    assert ended.code == 0
    first, *others = json.loads(ended.out)["candidates"]
    assert first == "off"
    assert any({"dola": "high"}.get(name, name) in each for each in others)
