"""The `dola` command, run as a user runs it."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from dola import __version__
from dola.cli import main
from dola.cli.app import app
from dola.cli.compare import _marked, answers
from dola.errors import ModelFileError

runner = CliRunner()


def dola_command(*args, **environment):
    return subprocess.run(
        [sys.executable, "-c", "from dola.cli import main; main()", *args],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_version_and_help():
    assert runner.invoke(app, ["--version"]).output.strip() == __version__
    text = runner.invoke(app, ["--help"]).output
    assert "compare" in text
    assert "models" in text


def test_a_mistake_gets_words_and_exit_code_2():
    done = dola_command("compare", "hello", "--model", "smolm")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith(
        "dola: 'smolm' is neither a folder nor an embedded model; those are smollm2, gemma3-270m.\nHint:"
    )
    assert "Traceback" not in done.stderr


def test_without_the_extra_the_command_prints_the_install_line(monkeypatch, capsys):
    monkeypatch.setattr("dola.cli.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert "pip install 'dola-decoding[cli]'" in capsys.readouterr().err


def test_main_runs_the_app(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["dola", "--version"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == __version__


def test_run_turns_errors_into_exit_code_2(monkeypatch, capsys):
    def fail():
        raise ModelFileError("what", hint="do")

    monkeypatch.setattr("dola.cli.app.app", fail)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert capsys.readouterr().err == "dola: what\nHint: do\n"


def test_answers_have_their_controls(smollm2):
    found = answers(*smollm2, "The capital of Washington State is", layers=["high", [26, 28]], max_new_tokens=8)
    assert [answer.title for answer in found] == [
        "greedy",
        "greedy, penalty 1.2",
        "DoLa high, penalty 1.2",
        "DoLa 26, 28, penalty 1.2",
    ]
    assert all(1 <= len(answer.token_ids) <= 8 and answer.tokens_per_second > 0 for answer in found)
    assert found[0].token_ids != found[2].token_ids
    assert not hasattr(smollm2.model, "dola")


def test_compare_in_a_terminal(smollm2, monkeypatch):
    monkeypatch.setattr("dola.cli.compare.load", lambda name: smollm2)
    result = runner.invoke(app, ["compare", "Water boils at", "--max-new-tokens", "3"])
    assert result.exit_code == 0
    assert "Water boils at" in result.output
    assert result.output.count("tokens/s") == 4


def test_departures_from_greedy_are_marked_from_their_first_word():
    marked = _marked("the cat sat", "the car ran")
    assert (marked.plain, [(span.start, span.end) for span in marked.spans]) == ("the cat sat", [(4, 11)])
    assert _marked("same", "same").spans == []
