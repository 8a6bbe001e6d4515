"""`dola tune questions.csv`: settings for one's own questions, over methods and strengths; other verbs read what it writes."""

import json
from importlib import import_module

import pytest

MODULE = import_module("dola.evidence.chosen")
EVEN = [(f"Is {i} even?", "yes" if i % 2 == 0 else "no", "no" if i % 2 == 0 else "yes") for i in range(24)]
CHOICES = "question,answer,wrong\n" + "".join(f"{','.join(row)}\n" for row in EVEN)
ANSWERS = "question,answer\n" + "".join(f"{question},{answer}\n" for question, answer, _ in EVEN[:6])


@pytest.fixture
def tuned(dola_command, folder, tmp_path):
    """`dola tune` of a file with this content."""

    def run(content, *options):
        path = tmp_path / "questions.csv"
        path.write_text(content, encoding="utf-8")
        return dola_command("tune", path, "--model", folder, *options)

    return run


def test_own_questions_with_wrong_answers(tuned):
    ended = tuned(
        CHOICES, "--method", "dola", "--method", "confident", "--thresholds", "0.1,0.5", "--strengths", "0.5", "--json"
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["metric"] == "accuracy"
    assert found["items"] == 24
    assert "confident" in found["candidates"]
    assert "high, relative_top 0.5, strength 0.5" in found["candidates"]
    assert found["finding"]["verdict"] in ("better", "worse", "no difference", "cannot tell")
    assert "24 questions, each with answers to choose from" in ended.err


def test_own_questions_that_are_answered_with_text(tuned):
    ended = tuned(
        ANSWERS, "--max-new-tokens", 2, "--train", 3, "--strengths", "0.5", "--prompt-template", "{question} =>", "--json"
    )
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["metric"] == "contains"
    assert "high, strength 0.5" in found["candidates"]
    assert "  > Is 0 even? =>" in ended.err


def test_what_it_writes_is_read_by_generate_and_eval(tuned, dola_command, folder, tmp_path, monkeypatch):
    chosen = "sled, rate 1.75, scale 5"
    monkeypatch.setattr(MODULE, "measure", lambda task, items, scores, name: {"accuracy": [float(name == chosen)] * len(items)})
    path = tmp_path / "tuned.json"
    ended = tuned(CHOICES, "--method", "sled", "--output", path, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["config"]["method"] == "sled"
    monkeypatch.undo()
    ended = dola_command("generate", "Hi", "-m", folder, "--max-new-tokens", 2, "--json", "--config", path)
    assert ended.code == 0, ended.err
    settings = json.loads(ended.out)["settings"]
    assert (settings["method"], settings["rate"], settings["scale"]) == ("sled", 1.75, 5)
    ended = dola_command("eval", tmp_path / "questions.csv", "-m", folder, "--json", "--config", path)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["settings"]["dola"]["rate"] == 1.75


@pytest.mark.parametrize(
    ("options", "said", "hint"),
    [
        (["--method", "nosuch"], "'nosuch' is unknown", "--method"),
        (["--strengths", "much"], "--strengths 'much' is not a list of numbers", "--strengths 0.25,0.5"),
        (["--strengths", "-1"], "strength", "1.0"),
        (["--thresholds", "2"], "2.0 is out of range", "0.1"),
        (["--thresholds", "0.1", "--relative-top", "0.2"], "--relative-top and --thresholds were both given", "one of them"),
        (["--method", "sled", "--strengths", "0.5"], "--strengths is for DoLa", "add --method dola"),
        (["--column", "question=Frage"], "The data have no column 'Frage'", "question=COLUMN"),
        (["--data", "x.csv"], "--data was given too", "leave --data out"),
    ],
)
def test_mistakes(tuned, options, said, hint):
    ended = tuned(CHOICES, *options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert hint in ended.err
