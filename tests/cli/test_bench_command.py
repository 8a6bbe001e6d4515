"""`dola bench`, run as a user runs it."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from families import tiny
from typer.testing import CliRunner
from words import word_tokenizer

from dola.cli import bench
from dola.cli.app import app

pytestmark = pytest.mark.usefixtures("_without_collecting_garbage")

runner = CliRunner()
TINY = ["bench", "--random-weights", "tiny", "--device", "cpu", "--new-tokens", "3", "--repeats", "1", "--no-memory"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with a tokenizer of words, as a folder."""
    path = tmp_path_factory.mktemp("model")
    word_tokenizer().save_pretrained(path)
    tiny().save_pretrained(path)
    return path


def fields(value, path=""):
    """The paths of SCHEMA that a JSON value holds: what SCHEMA documents as one field is not taken apart."""
    if path in bench.SCHEMA:
        yield path
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from fields(part, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for part in value:
            yield from fields(part, f"{path}[]")
    else:
        yield path


def test_json_is_what_the_schema_says_and_nothing_else_is_on_stdout():
    result = runner.invoke(app, [*TINY, "--prompt-lengths", "4,6", "--prompt-lookup", "2", "--layers", "2,4", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found.pop("schema") == "dola.bench/1"
    assert isinstance(found.pop("dola"), str)
    assert set(fields(found)) == set(bench.SCHEMA)
    assert [case["prompt_tokens"] for case in found["cases"]] == [4, 6]
    assert found["model"]["candidate_layers"] == [2, 4]
    assert "repetition 1/1" in result.stderr


def test_table():
    threads = torch.get_num_threads()
    result = runner.invoke(app, [*TINY, "--prompt-lengths", "4,6", "--batch-sizes", "2", "--threads", "1"])
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert "batch 2, 6 random tokens, 3 new" in result.stdout
    assert "over greedy" in result.stdout
    assert "Medians over all cases" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_table_says_where_drafts_changed_tokens(monkeypatch):
    monkeypatch.setattr("dola.bench.measure._first_difference", lambda tokens, others: 1)
    result = runner.invoke(app, [*TINY, "--prompt-lengths", "4", "--prompt-lookup", "2", "--no-old"])
    assert "dola+lookup: tokens differ from those without drafts in 1 repetitions" in " ".join(result.stdout.split())


@pytest.mark.parametrize(("options", "lengths"), [([], [3, 2]), (["--prompt-lengths", "9"], [9])])
def test_a_real_folder_with_prompts_of_the_users(folder, tmp_path, options, lengths):
    file = tmp_path / "mine.txt"
    file.write_text("one two three\n---\ntwo one\n")
    options = ["--model", str(folder), "--prompts", str(file), "--new-tokens", "2", "--repeats", "1", "--no-memory", *options]
    result = runner.invoke(app, ["bench", *options, "--json"])
    assert result.exit_code == 0, result.output
    assert [case["prompt_tokens"] for case in json.loads(result.stdout)["cases"]] == lengths


def test_code_of_a_model_runs_only_when_it_is_trusted(folder, monkeypatch):
    asked = []

    def load(name, **kwargs):
        asked.append(kwargs["trust_remote_code"])
        raise ValueError

    monkeypatch.setattr("dola.bench.source.load", load)
    for options in ([], ["--trust-remote-code"]):
        runner.invoke(app, ["bench", "--model", str(folder), *options])
    assert asked == [False, True]


def test_chart(monkeypatch, tmp_path):
    written = []
    monkeypatch.setattr("dola.bench.chart.find_spec", lambda name: name)
    monkeypatch.setattr("dola.bench.chart.save_chart", lambda result, path: written.append(path))
    result = runner.invoke(app, [*TINY, "--prompt-lengths", "4", "--chart", str(tmp_path / "a.png")])
    assert written == [tmp_path / "a.png"]
    assert "wrote" in result.stderr


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        ([], {"repetition_penalty": 1.0, "old": True, "memory": True, "compile": False}),
        (["--repetition-penalty", "1.3"], {"repetition_penalty": 1.3}),
        (["--old", "--memory"], {"old": True, "memory": True}),
        (["--no-old", "--no-memory"], {"old": False, "memory": False}),
        (["--cache", "static", "--compile", "--no-old"], {"cache": "static", "compile": True}),
        (["--cache", "static", "--no-compile"], {"cache": "static", "compile": False}),
    ],
)
def test_options_reach_the_settings(options, settings, monkeypatch):
    class Asked(Exception):  # noqa: N818
        pass

    def measure(model, cases, given, **kwargs):
        raise Asked({name: getattr(given, name) for name in settings})

    monkeypatch.setattr("dola.bench.measure.measure", measure)
    result = runner.invoke(app, ["bench", "--random-weights", "tiny", "--device", "cpu", "--prompt-lengths", "4", *options])
    assert isinstance(result.exception, Asked), result.output
    assert result.exception.args == (settings,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "smollm2"], "--model smollm2 and --random-weights tiny exclude each other"),
        (["-m", "smollm2"], "--model smollm2 and --random-weights tiny exclude each other"),
        (["--prompts", "copy"], "--prompts copy and --random-weights tiny exclude each other"),
        (["--batch-sizes", "1,x"], "--batch-sizes '1,x' is not a list of whole numbers"),
        (["--prompt-lengths", "0"], "--prompt-lengths 0 is out of range"),
        (["--threads", "-2"], "--threads -2 is out of range"),
        (["--prompt-lengths", "whole"], "--prompt-lengths whole does not work with random weights"),
        (["--layers", "middle"], "--layers middle is neither a bucket nor"),
        (["--layers", "3,99"], "layer 99 in --layers 3,99"),
        (["--dtype", "int3"], "--dtype int3 is not supported"),
        (["--random-weights", "gpt-9"], "'gpt-9' is not a shape for random weights"),
        (["--cache", "paged"], "--cache paged is not supported"),
        (["--new-tokens", "0"], "--new-tokens 0 is too few"),
        (["--prompt-lengths", "5000"], "exceed the window of 4096"),
    ],
)
def test_mistakes(options, message, monkeypatch, capsys):
    from dola.cli.app import run

    monkeypatch.setattr(sys, "argv", ["dola", *TINY, *options])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert message in told.err
    assert "Hint: " in told.err
    assert told.out == ""


def test_whole_prompts_have_no_batches(folder):
    result = runner.invoke(app, ["bench", "--model", str(folder), "--prompts", "copy", "--batch-sizes", "2"])
    assert "--batch-sizes 2 does not work with whole prompts" in str(result.exception)


def test_the_module_itself_imports_nothing_heavy():
    tree = ast.parse(Path(bench.__file__).read_text())
    imported = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert imported <= {
        "__future__",
        "dataclasses",
        "dola.cli.options",
        "dola.methods.layers",
        "pathlib",
        "sys",
        "typing",
        "typer",
    }


def test_another_method(toy):
    result = runner.invoke(app, [*TINY, "--prompt-lengths", "4", "--json", "--method", "toy", "--set", "rate=0.9"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["settings"]["dola"] == {"method": "toy", "layers": "last:3", "rate": 0.9}
    shown = runner.invoke(app, [*TINY, "--prompt-lengths", "4", "--method", "toy"])
    assert "toy" in shown.stdout
    assert "dola " not in shown.stdout.partition("Noise")[0]
    assert found["model"]["candidate_layers"] == [3, 4, 5]
