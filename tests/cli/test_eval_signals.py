"""`dola eval --signals`: its JSON, its page, one's own questions, and the options that mean nothing beside it."""

import json

import pytest
import samples

import dola
from dola.cli.warning_signs import SCHEMA, SCHEMA_NAME
from dola.evidence.sample import Sample
from dola.evidence.signal_report import report_signals
from dola.evidence.signals import signal_names
from dola.methods.config import DoLaConfig
from dola.tasks import TASKS

QUESTIONS = "question,answer\n" + "".join(f"What is {i}?,{i}\n" for i in range(3))


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory):
    return samples.long_window(tmp_path_factory.mktemp("long"))


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return samples.factor(tmp_path_factory.mktemp("data") / "news_factor.csv", rows=6)


@pytest.fixture
def signals(dola_command, long_folder, data):
    """`dola eval factor-news --signals` with more options."""
    return lambda *more: dola_command("eval", "factor-news", "--data", data, "--model", long_folder, "--signals", *more)


def test_json_is_what_the_schema_says_and_what_python_finds(signals, long_folder, data):
    ended = signals("--json")
    found = json.loads(ended.out)
    assert (ended.code, ended.err) == (0, "")
    assert (found.pop("schema"), found.pop("dola")) == (SCHEMA_NAME, dola.__version__)
    listed = {f"{name}[].{field}" for name in ("origins", "answers") for field in found[name][0]}
    assert listed | (found.keys() - {"origins", "answers"}) == set(SCHEMA)
    sample = Sample.of(TASKS["factor-news"], [str(data)])
    own = DoLaConfig("high", relative_top=0.1)
    report = report_signals(*dola.load(str(long_folder)), sample, name=str(long_folder), config=own, progress=False)
    assert found == json.loads(json.dumps(report.to_json()))


def test_the_terminal_and_the_page_begin_with_the_answer(signals, tmp_path):
    ended = signals("--markdown", tmp_path / "signs.md", "--layers", "2,4")
    assert ended.code == 0
    said = " ".join(ended.out.split())
    assert "Too few answers to say whether a signal beats the plain token probability" in said
    assert "Layers are DoLa's candidates 2, 4." in said
    page = (tmp_path / "signs.md").read_text(encoding="utf-8")
    assert page.splitlines()[2].startswith("**Too few answers to say")


def test_own_questions_answered_with_text_by_signals(dola_command, long_folder, tmp_path):
    (tmp_path / "own.csv").write_text(QUESTIONS)
    ended = dola_command("eval", tmp_path / "own.csv", "--model", long_folder, "--max-new-tokens", 3, "--signals", "--json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert "3 questions" in ended.err
    assert len(found["answers"]) == 3
    assert found["answers"][0]["signals"].keys() > signal_names().keys()
    assert "contains, a known answer is in the text" in found["right_means"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--ways", "full"], "--ways does not apply to --signals."),
        (["--smallest", 5], "--smallest does not apply to --signals."),
        (["--chart", "c.svg"], "--chart does not apply to --signals."),
        (["--batch-size", 2], "--batch-size does not apply to --signals."),
        (["--method", "sled"], "--signals reads DoLa's contrast, and --method is sled."),
    ],
)
def test_options_that_mean_nothing_are_refused(signals, options, said):
    ended = signals(*options)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Hint: omit" in ended.err


def test_tasks_without_right_and_wrong_are_refused(dola_command, long_folder, tmp_path):
    questions = samples.vicuna(tmp_path / "question.jsonl")
    ended = dola_command("eval", "vicuna", "--data", questions, "--model", long_folder, "--signals")
    assert ended.code == 2
    assert "Answers of vicuna are judged elsewhere." in ended.err
    ended = dola_command("eval", "lm-eval:arc_easy", "--signals")
    assert ended.code == 2
    assert "--signals does not apply to lm-eval:arc_easy." in ended.err
