"""The `dola` command as a whole: help, completion, imports, and that no option is without a test."""

import json
import re
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest
from cli_page import page, verbs
from command import ROOT, dola_process, environment

import dola
from dola import DoLaConfig
from dola.cli import main
from dola.cli.generate import command as generate
from dola.contrast import DIVERGENCES
from dola.decoding.generate import RECOMMENDED_PENALTY
from dola.errors import ModelFileError
from dola.installed.hints import install_line

HERE = Path(__file__).parent


VERBS = dict(verbs())


def test_version(dola_command):
    assert dola_command("--version") == (0, dola.__version__ + "\n", "")


def test_help_lists_the_verbs(dola_command):
    ended = dola_command("--help")
    assert ended.code == 0
    for path in VERBS:
        assert path[0] in ended.out


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_verb_has_help_with_an_example(dola_command, path):
    ended = dola_command(*path, "--help")
    assert ended.code == 0
    example = " ".join(ended.out.partition("Example")[2].split())
    assert f"dola {' '.join(path)}" in example


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_every_option_of_every_verb_is_used_in_a_test(path):
    tests = "".join(file.read_text() for file in HERE.glob(f"test_{path[0].replace('-', '_')}*.py"))
    flags = {flag for option in VERBS[path].params for flag in [*option.opts, *option.secondary_opts] if flag.startswith("--")}
    made = {
        flag for each in DoLaConfig.options() for flag in (f"--{each.name}", f"--no-{each.name}")
    }  # test_setting.py has them
    flags -= {flag.replace("_", "-") for flag in made} | {"--help"}
    assert not {flag for flag in flags if f'"{flag}"' not in tests}


def test_the_page_is_fresh():
    assert (ROOT / "docs" / "cli.md").read_text() == page(), "run: make docs"


def test_the_page_does_not_depend_on_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERMINAL_WIDTH", "40")
    assert (ROOT / "docs" / "cli.md").read_text() == page()


def test_every_verb_with_json_documents_it():
    for path, verb in VERBS.items():
        if any("--json" in option.opts for option in verb.params):
            assert getattr(sys.modules[verb.callback.__module__], "SCHEMA", None), path


def test_no_arguments_show_the_help_and_are_a_mistake(dola_command):
    ended = dola_command()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: dola")


def test_without_the_extra_the_command_prints_the_install_line(monkeypatch, capsys):
    monkeypatch.setattr("dola.cli.find_spec", lambda name: None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("dola: The command needs typer and rich, which are not installed.\n")
    assert f"Hint: {install_line('cli')}\n" in said


def test_errors_of_the_library_become_messages(dola_command, monkeypatch):
    def fail(*_, **__):
        raise ModelFileError("what", hint="do")

    monkeypatch.setattr("dola.cli.options.load_model", fail)
    assert dola_command("generate", "Hi") == (2, "", "dola: what\nHint: do\n")


def test_help_imports_neither_torch_nor_transformers():
    code = "import atexit, json, sys; atexit.register(lambda: print(json.dumps(list(sys.modules)), file=sys.stderr)); "
    command = [sys.executable, "-c", code + "from dola.cli import main; main()"]
    for arguments in (["--help"], ["compare", "--help"], ["models", "--help"], ["generate", "", "--layers", "off"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment())
        imported = set(json.loads(done.stderr.splitlines()[-1]))
        assert "typer" in imported
        assert not {"torch", "transformers", "numpy"} & imported


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("dola ", ["generate", "compare", "models"]),
        ("dola gen", ["generate"]),
        ("dola generate --rep", ["--repetition-penalty"]),
        ("dola generate --layers ", ["high", "low", "all", "off"]),
        ("dola compare --divergence ", ["jsd", "reference"]),
        ("dola compare -m s", ["smollm2"]),
    ],
)
def test_completion(dola_command, monkeypatch, words, expected):
    monkeypatch.setenv("_DOLA_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
    ended = dola_command()
    assert ended.code == 0
    assert set(expected) <= set(ended.out.split())
    if words.endswith(("gen", "rep", "s")):
        assert ended.out.split() == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script(dola_command, monkeypatch, shell):
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: shell, raising=False)
    ended = dola_command("--show-completion")
    assert ended.code == 0
    assert "_DOLA_COMPLETE" in ended.out


def test_completion_is_installed(tmp_path):
    home = {"HOME": str(tmp_path), "SHELL": "/bin/bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = dola_process("--install-completion", "bash", env=home)
    assert done.returncode == 0
    assert re.search(r"bash completion installed in .*dola.sh", done.stdout)
    (script,) = (tmp_path / ".bash_completions").iterdir()
    assert "_DOLA_COMPLETE" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_what_options_repeat_of_modules_that_they_cannot_import():
    assert signature(generate).parameters["repetition_penalty"].default == RECOMMENDED_PENALTY == 1.2
    (divergence,) = (each for each in dola.DoLaConfig.options() if each.name == "divergence")
    assert list(divergence.choices) == list(DIVERGENCES)
