"""`dola eval`: every option, its JSON, what it refuses, and that a killed run ends with the same numbers."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import samples
import torch
from command import COMMAND, dola_process, environment
from each_method import METHODS, each_method, on_command_line

import dola
from dola.cli.evaluate import SCHEMA, SCHEMA_NAME
from dola.cli.evaluation import TASK_NAMES
from dola.evidence import html_page
from dola.evidence.evaluate import evaluate
from dola.evidence.markdown_page import markdown
from dola.evidence.sample import Sample
from dola.methods.registry import config_of
from dola.tasks import TASKS


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with the files of the tasks under their own names."""
    folder = tmp_path_factory.mktemp("data")
    samples.factor(folder / "news_factor.csv", rows=12)
    samples.truthfulqa(folder / "TruthfulQA.csv", rows=6)
    samples.memotrap(folder / "1-proverb-ending.csv")
    samples.gsm8k(folder / "test.jsonl", rows=5)
    samples.vicuna(folder / "question.jsonl", rows=2)
    return folder


@pytest.fixture(scope="session")
def long_folder(tmp_path_factory):
    return samples.long_window(tmp_path_factory.mktemp("long"))


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch):
    for name in ("gsm8k", "vicuna", "truthfulqa-open"):
        task = TASKS[name]
        monkeypatch.setitem(TASKS, name, replace(task, generation=replace(task.generation, max_new_tokens=3)))


@pytest.fixture
def evaluated(dola_command, long_folder, data):
    """The JSON of `dola eval` with some options."""

    def run(task, *arguments):
        ended = dola_command("eval", task, "--data", data, "--model", long_folder, "--json", *arguments)
        assert (ended.code, ended.err) == (0, "")
        return json.loads(ended.out)

    return run


def fields(value, path=""):
    """The paths of SCHEMA that a JSON value holds: what SCHEMA documents as one field is not taken apart."""
    if path in SCHEMA:
        yield path
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from fields(part, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for part in value:
            yield from fields(part, f"{path}[]")
    else:
        yield path


def way(found, name):
    return next(each for each in found["ways"] if each["name"] == name)


def test_the_tasks_in_the_help_are_those_that_there_are():
    assert list(TASK_NAMES) == list(TASKS)


def test_json_is_what_the_schema_says_and_what_evaluate_finds(evaluated, long_folder, data):
    found = evaluated("factor-news")
    assert (found.pop("schema"), found.pop("dola")) == (SCHEMA_NAME, dola.__version__)
    generated = {"repetition_penalty", "batch_size", "max_new_tokens", "stop", "temperature", "judges"}
    findings = found.pop("findings")
    assert set(findings) == {each["name"] for each in found["ways"] if not each["control"]} - {"vanilla"}
    assert set(fields(found)) | {"findings"} == {name for name in SCHEMA if name.removeprefix("settings.") not in generated}
    sample = Sample.of(TASKS["factor-news"], [str(data)])
    report = evaluate(*dola.load(str(long_folder)), sample, name=str(long_folder), progress=False)
    assert found | {"findings": findings} == json.loads(json.dumps(report.to_json()))
    assert [len(values) for each in found["ways"] for values in each["items"].values()] == [12] * 2 * len(found["ways"])


def test_json_of_a_task_that_generates(evaluated):
    found = evaluated("gsm8k", "--batch-size", 2, "--repetition-penalty", "1.3", "--layers", "2,4")
    assert list(found.pop("findings")) == ["DoLa low", "DoLa high", "DoLa 2,4"]
    assert set(fields(found)) - {"schema", "dola"} | {"findings"} == set(SCHEMA)
    assert [each["name"] for each in found["ways"]] == ["vanilla", "vanilla, penalty 1.3", "DoLa low", "DoLa high", "DoLa 2,4"]
    assert (found["settings"]["batch_size"], found["settings"]["repetition_penalty"]) == (2, 1.3)
    assert found["settings"]["dola"]["relative_top"] == 0.1
    assert all('With the same penalty on both sides (against "vanilla, penalty 1.3"): ' in line for line in found["verdicts"])
    assert all(len(each["texts"]) == 5 for each in found["ways"])


@pytest.mark.parametrize(("task", "top"), [("truthfulqa-mc", 0.0), ("factor-news", 0.1), ("memotrap", 0.1)])
def test_the_threshold_is_the_papers_for_the_task_unless_it_is_given(evaluated, task, top):
    assert evaluated(task, "--limit", 2)["settings"]["dola"]["relative_top"] == top
    assert evaluated(task, "--limit", 2, "--relative-top", "0.2")["settings"]["dola"]["relative_top"] == 0.2


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--layers", "all"], "layers", "all"),
        (["--layers", "off"], "layers", "high"),  # as `dola tune` may write it: no further row
        (["--divergence", "reference"], "divergence", "reference"),
        (["--final-norm"], "final_norm", True),
        (["--no-final-norm"], "final_norm", False),
        (["--trust-remote-code"], "layers", "high"),
        (["--device", "cpu"], "layers", "high"),
    ],
)
def test_settings(evaluated, options, field, value):
    found = evaluated("factor-news", "--limit", 3, *options)
    assert found["settings"]["dola"][field] == value
    rows = [each["name"] for each in found["ways"] if not each["control"]]
    assert ("DoLa all" in rows) == (value == "all")


def test_options(evaluated, long_folder, tmp_path):
    assert evaluated("factor-news", "--limit", 3, "--dtype", "bfloat16")["dtype"] == "bfloat16"
    settings = tmp_path / "tuned.json"
    settings.write_text('{"layers": [3], "divergence": "reference", "final-norm": false, "limit": 4}')
    found = evaluated("factor-news", "--config", settings)
    assert found["settings"]["dola"] == {
        "layers": [3], "relative_top": 0.1, "divergence": "reference", "strength": 1.0, "scores": "contrast",
        "final_norm": False, "lazy": True, "lens": None,
    }  # fmt: skip
    assert way(found, "DoLa 3")["layers"] == {"3": 1.0}
    threads = torch.get_num_threads()
    evaluated("factor-news", "--limit", 2, "--threads", 1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)


def test_a_limit_is_drawn_with_the_seed_and_said(evaluated, dola_command, long_folder, data):
    first, again, other = (evaluated("factor-news", "--limit", 4, "--seed", seed) for seed in (1, 1, 2))
    assert first == again
    assert first["item_ids"] == sorted(first["item_ids"], key=int) != other["item_ids"]
    assert (len(first["item_ids"]), first["total"], first["seed"]) == (4, 12, 1)
    shown = dola_command("eval", "factor-news", "--data", data, "-m", long_folder, "--limit", 4, "--seed", 1)
    said = " ".join(shown.out.split())
    assert "4 of 12 items of " in said
    assert "seed 1" in said


def test_files(dola_command, long_folder, data, tmp_path, monkeypatch):
    page, picture, web = tmp_path / "report.md", tmp_path / "report.svg", tmp_path / "report.html"
    drawn = []
    monkeypatch.setattr("dola.bench.chart.find_spec", lambda name: name)
    monkeypatch.setattr("dola.evidence.chart.save_chart", lambda report, path: drawn.append((report, path)))
    command = ["eval", "factor-news", "--data", data / "news_factor.csv", "-m", long_folder]
    ended = dola_command(*command, "--markdown", page, "--chart", picture, "--html", web)
    assert (ended.code, ended.err) == (0, "")
    ((report, path),) = drawn
    assert path == picture
    assert page.read_text() == markdown(report)
    assert web.read_text() == html_page.page(report)
    assert "vanilla" in ended.out
    assert max(map(len, ended.out.splitlines())) <= 80


def test_an_existing_results_file_is_continued(evaluated, tmp_path):
    path = tmp_path / "results.jsonl"
    first = evaluated("factor-news", "--results", path)
    written = path.read_bytes()
    assert evaluated("factor-news", "--results", path) == first
    assert path.read_bytes() == written


def test_data_that_changed_under_results(dola_command, long_folder, tmp_path):
    path, results = tmp_path / "f.csv", tmp_path / "results.jsonl"
    command = ["eval", "factor-news", "--data", path, "-m", long_folder, "--results", results]
    samples.factor(path, rows=4)
    before = Sample.of(TASKS["factor-news"], [str(path)]).origins[0].sha256
    assert dola_command(*command).code == 0
    samples.factor(path, rows=4, seed=1)
    after = Sample.of(TASKS["factor-news"], [str(path)]).origins[0].sha256
    ended = dola_command(*command)
    assert (ended.code, ended.out) == (2, "")
    assert (
        f"belongs to a different run (data: {path} with SHA-256 {before[:12]}... in the file, "
        f"{path} with SHA-256 {after[:12]}... now)" in ended.err
    )
    assert dola_command(*command, "--limit", 2).code == 2


def lines(path):
    return path.read_bytes().count(b"\n") if path.exists() else 0


def test_killed_in_the_middle_it_ends_with_the_same_numbers(long_folder, tmp_path):
    """SIGKILL, twice; then to the end. No item is scored twice or lost."""
    path = samples.factor(tmp_path / "f.csv", rows=300)
    command = ["eval", "factor-news", "--data", path, "-m", long_folder, "--json"]
    results, killed_at = tmp_path / "results.jsonl", [1]
    for _ in range(2):
        process = subprocess.Popen(
            [*COMMAND, *map(str, [*command, "--results", results])],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(OMP_NUM_THREADS="1"),
        )  # fmt: skip
        deadline = time.monotonic() + 120
        while lines(results) < killed_at[-1] + 20 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        assert (process.communicate()[0], process.returncode) == (b"", -signal.SIGKILL)
        killed_at.append(lines(results))
        assert killed_at[-2] + 20 <= killed_at[-1] < 301
    ended = dola_process(*command, "--results", results, env={"OMP_NUM_THREADS": "1"})
    whole = dola_process(*command, env={"OMP_NUM_THREADS": "1"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert json.loads(ended.stdout) == json.loads(whole.stdout)
    items = [json.loads(line)["item"] for line in results.read_text().splitlines()[1:]]
    assert sorted(items) == list(range(300))


def test_a_sequential_run_says_at_which_look_each_row_was_decided(evaluated, dola_command, long_folder, data, monkeypatch):
    found = evaluated("factor-news", "--sequential", "--smallest", 90)
    assert found["looks"] == [3, 6, 9, 12]
    assert all(each["look"] in (None, 1, 2, 3, 4) for each in found["findings"].values())
    assert {name: len(way(found, name)["items"]["factor"]) for name in found["findings"]} == {
        name: each["items"] for name, each in found["findings"].items()
    }
    monkeypatch.setattr("dola.evidence.scored.LEAST", math.inf)  # a slow machine would first say how long the run takes
    told = dola_command("eval", "factor-news", "--data", data, "-m", long_folder, "--sequential", "--smallest", 90)
    assert told.code == 0
    assert told.err.startswith("dola: look 1 of 4, after 3 items: ")
    assert "Sequential: items in an order drawn with seed 0" in " ".join(told.out.split())


def test_the_time_of_a_long_run_is_announced_on_stderr(dola_command, evaluated, long_folder, data, monkeypatch):
    monkeypatch.setattr("dola.evidence.scored.LEAST", 0.0)
    command = ["eval", "factor-news", "--data", data, "-m", long_folder]
    said = dola_command(*command).err
    assert re.fullmatch(r"dola: about \d+ seconds? for these rows \(--ways standard \d+, methods \d+, full \d+\)\n", said)
    evaluated("factor-news")  # with --json nothing is written there, unless that is a terminal


# judges and answers


class Judge:
    def __init__(self, *named):
        self.named = named

    def probability_of_yes(self, prompt):
        return 1.0


def test_judges_on_this_machine(evaluated, long_folder, monkeypatch):
    found = evaluated("truthfulqa-open", "--limit", 2, "--judge", long_folder)
    assert found["settings"]["judges"] == [str(long_folder)] * 2
    assert {value for each in found["ways"] for value in each["items"]["truth"]} <= {0.0, 1.0}


def test_judges_on_a_server(evaluated, monkeypatch):
    made = []
    monkeypatch.setattr("dola.tasks.judge.EndpointJudge", lambda *named: made.append(named) or Judge())
    options = ["--judge", "t", "--info-judge", "i", "--judge-url", "http://localhost:1/v1"]
    found = evaluated("truthfulqa-open", "--limit", 2, *options)
    assert made == [("t", "http://localhost:1/v1"), ("i", "http://localhost:1/v1")]
    assert found["settings"]["judges"] == ["t", "i"]
    assert way(found, "vanilla")["estimates"]["truth_info"]["mean"] == 1.0


def test_a_judge_that_does_not_answer(dola_command, long_folder, data):
    options = ["--limit", 1, "--judge", "t", "--judge-url", "http://127.0.0.1:9/v1"]
    ended = dola_command("eval", "truthfulqa-open", "--data", data, "-m", long_folder, *options)
    assert (ended.code, ended.out) == (2, "")
    assert "http://127.0.0.1:9/v1/completions cannot be reached" in ended.err


def test_answers_for_fastchat(dola_command, long_folder, data, tmp_path):
    ended = dola_command("eval", "vicuna", "--data", data, "-m", long_folder, "--answers", tmp_path / "out")
    assert (ended.code, ended.err) == (0, "")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    ways = ("dola-high", "dola-low", "vanilla-penalty-1.2", "vanilla")
    assert names == sorted(f"{long_folder.name}-{way}.jsonl".lower() for way in ways)
    assert all(name in ended.out for name in names)


# mistakes

MISTAKES = [
    (["mmlu"], "'mmlu' is not a task. Tasks: truthfulqa-mc, truthfulqa-binary,", "dola eval truthfulqa-mc"),
    ([], "Missing argument 'task'", "dola eval questions.csv -m MODEL"),
    (["factor-news"], "The Hugging Face hub does not have factor-news; its data files are news_factor.csv.", "give their path"),
    (["factor-news", "--data", "nosuch.csv"], "The data file 'nosuch.csv' cannot be read: No such file", "check the path"),
    (["factor-wiki", "--data", "DATA"], "wiki_factor.csv' cannot be read: No such file", "check the path"),
    (["gsm8k", "--data", "empty.jsonl"], "row 1: the field 'answer' is missing; the row has 'question'", "complete the row"),
    (["factor-news", "--data", "short.csv"], "row 1: the field 'contradiction_2' is missing", "complete the row"),
    (["factor-news", "--data", "DATA", "--limit", "0"], "--limit 0 is out of range; allowed is 1 or more.", "leave"),
    (["factor-news", "--data", "DATA", "--seed", "-1"], "--seed -1 is out of range", "leave"),
    (["gsm8k", "--data", "DATA", "--batch-size", "0"], "--batch-size 0 is out of range", "leave"),
    (["factor-news", "--data", "DATA", "--batch-size", "2"], "--batch-size does not apply to factor-news.", "omit --batch"),
    (["factor-news", "--data", "DATA", "--repetition-penalty", "1.2"], "--repetition-penalty does not apply", "omit --rep"),
    (["gsm8k", "--data", "DATA", "--judge", "x"], "--judge does not apply to gsm8k.", "omit --judge"),
    (["gsm8k", "--data", "DATA", "--answers", "x"], "--answers does not apply to gsm8k.", "omit --answers"),
    (["vicuna", "--data", "DATA", "-m", "MODEL", "--answers", ".", "--sequential"], "another program judges", "omit --seq"),
    (["lm-eval:arc_easy", "--sequential"], "--sequential does not apply to lm-eval:arc_easy.", "omit --sequential"),
    (["truthfulqa-open", "--data", "DATA"], "truthfulqa-open needs a judge of answers.", "--judge MODEL"),
    (
        ["truthfulqa-open", "--data", "DATA", "-m", "MODEL", "--judge", "x", "--judge-url", "x"],
        "'x' is not a web address",
        "http://",
    ),
    (["vicuna", "--data", "DATA"], "vicuna writes its answers to files and needs a folder.", "--answers FOLDER"),
    (["factor-news", "--data", "DATA", "--markdown", "no/a.md"], "--markdown 'no/a.md': No such file or directory.", "check"),
    (["factor-news", "--data", "DATA", "--markdown", "."], "--markdown '.': Is a directory.", "check the path"),
    (["factor-news", "--data", "DATA", "--results", "short.csv/a"], "--results 'short.csv/a': Not a directory.", "check"),
    (["factor-news", "--data", "DATA", "-m", "MODEL", "--results", "short.csv"], "'short.csv' was not written by", "name"),
    (["factor-news", "--data", "DATA", "--chart", "a.doc"], "--chart a.doc: the file must end in .png", "--chart a.svg"),
    (["factor-news", "--data", "DATA", "--method", "dolla"], "method='dolla' is unknown", "did you mean dola?"),
    (["factor-news", "--data", "DATA", "--layers", "hihg"], "--layers 'hihg' is not known", "--layers high"),
    (["factor-news", "--data", "DATA", "-m", "MODEL", "--layers", "99"], "layer 99 in --layers 99 does not exist", "--layers"),
    (["factor-news", "--data", "DATA", "--config", "unknown.json"], "'lyers' is not an option of this command", "names"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "what", "hint"), MISTAKES, ids=lambda value: None)
def test_mistakes(dola_command, long_folder, data, tmp_path, monkeypatch, arguments, what, hint):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("dola.bench.chart.find_spec", lambda name: name)
    (tmp_path / "empty.jsonl").write_text('{"question": "Why?"}\n')
    (tmp_path / "short.csv").write_text("full_prefix,completion,contradiction_0,contradiction_1,contradiction_2\na,b,c,d\n")
    (tmp_path / "unknown.json").write_text('{"lyers": "high"}')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    names = {"DATA": str(data), "MODEL": str(long_folder)}
    ended = dola_command("eval", *(names.get(argument, argument) for argument in arguments))
    assert (ended.code, ended.out) == (2, "")
    message, _, advice = ended.err.removeprefix("dola: ").rstrip("\n").partition("\nHint: ")
    assert what in message
    assert hint in advice
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_mistakes_in_data_are_reported_before_torch_is_imported(tmp_path):
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); "
    command = [sys.executable, "-c", code + "from dola.cli import main; main()", "eval", "factor-news", "--data", "nosuch.csv"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    assert (done.returncode, done.stdout) == (2, "False\n")


def test_another_method(evaluated, toy):
    found = evaluated("factor-news", "--limit", 3, *toy)
    assert found["settings"]["dola"] == {"method": "toy", "layers": "last:3", "rate": 0.9}
    assert [each["name"] for each in found["ways"]] == ["vanilla", "toy", "length alone"]
    made = evaluated("gsm8k", "--limit", 2, "--method", "toy", "--set", "rate=0.9")
    assert [each["name"] for each in made["ways"]] == ["vanilla", "vanilla, penalty 1.2", "toy"]


@each_method
def test_each_method(evaluated, long_folder, data, name):
    """Its row is of the scores that `dola.score` gives it; texts are generated with it too."""
    found = evaluated("factor-news", "--limit", 3, *on_command_line(METHODS[name]))
    assert config_of(found["settings"]["dola"]) == METHODS[name]
    row = next(each for each in found["ways"] if each["name"].startswith("DoLa high" if name == "dola" else name))
    items = {item.id: item for item in TASKS["factor-news"].items(data / "news_factor.csv")}
    drawn = [items[each] for each in found["item_ids"]]
    contexts, endings = [item.context for item in drawn], [item.continuations for item in drawn]
    scores = dola.score(*dola.load(str(long_folder)), contexts, endings, {"it": METHODS[name]}, progress=False).values["it"]
    right = [float(each[0] == max(each)) for each in scores]
    assert row["items"]["factor"] == right
    made = evaluated("gsm8k", "--limit", 2, *on_command_line(METHODS[name]))
    assert row["name"] in [each["name"] for each in made["ways"]]
