"""Help: groups in one order for all verbs, at most 100 columns, examples that parse, and a short page for `dola` alone."""

import re
import shlex

import pytest
import typer
from cli_page import verbs

from dola.cli.app import app
from dola.cli.help_page import GROUPS, HOW, INPUT, OUTPUT, RUNNING, START, WIDTH, group_of

VERBS = dict(verbs())
TITLE = re.compile(r"^([A-Z][a-z ]+):$", re.MULTILINE)
OPTIONS = {path: [each for each in verb.params if each.param_type_name == "option"] for path, verb in VERBS.items()}


@pytest.fixture
def help_of(dola_command, monkeypatch):
    """What `dola ... --help` prints on a terminal of some width."""

    def run(*path, columns=200):
        monkeypatch.setenv("COLUMNS", str(columns))
        ended = dola_command(*path, "--help")
        assert (ended.code, ended.err) == (0, "")
        return ended.out

    return run


def sections(text):
    """The parts of a page by their titles."""
    _, *parts = TITLE.split(text)
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("path", [(), ("models",), *VERBS], ids=" ".join)
def test_no_line_is_wider_than_100_columns(help_of, path):
    assert max(map(len, help_of(*path).splitlines())) <= WIDTH == 100


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_options_are_in_groups_that_come_in_one_order(help_of, path):
    found = sections(help_of(*path))
    titles = [title for title in found if title != "Arguments"]
    assert titles in ([title for title in GROUPS if title in titles], ["Options"])
    for option in OPTIONS[path]:
        flag = option.opts[-1]
        holding = [title for title in titles if re.search(rf"^  (?:-\w, )?{re.escape(flag)}\b", found[title], re.MULTILINE)]
        assert holding == (titles if titles == ["Options"] else [group_of(path[-1], option.name)]), flag


def test_groups_name_parameters_that_exist():
    names = {option.name for options in OPTIONS.values() for option in options} | {"help"}
    names |= {f"{path[-1]}.{option.name}" for path, options in OPTIONS.items() for option in options}
    assert {name for group in GROUPS.values() for name in group.split()} <= names


def test_a_new_setting_of_a_method_is_about_decoding():
    assert group_of("generate", "a_field_of_tomorrow") == HOW
    assert (group_of("trace", "open_"), group_of("ui", "open_")) == (INPUT, OUTPUT)
    assert (group_of("generate", "device"), group_of("eval", "json")) == (RUNNING, OUTPUT)


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_the_first_line_says_what_a_verb_gives(help_of, path):
    line = VERBS[path].help.partition("\n")[0]
    assert re.fullmatch(r"[A-Z][^.]*\.", line)
    assert len(line) <= WIDTH - 12
    assert line in " ".join(help_of(*path[:-1]).split())  # in full, where verbs are listed


def examples(path):
    """The arguments of each example that calls dola."""
    lines = [line.strip() for line in VERBS[path].help.partition("Examples:\n")[2].splitlines() if line.strip()]
    called = [re.search(r"(?<![/\w])dola (.*?)(?: > .*)?$", line)[1] for line in lines]
    inner = [line.endswith(')"') and not line.startswith("dola") for line in lines]  # another program's argument
    return [shlex.split(text.removesuffix(')"') if cut else text) for text, cut in zip(called, inner, strict=True)], lines


@pytest.mark.parametrize("path", VERBS, ids=" ".join)
def test_three_examples_that_parse(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tuned.json").write_text("{}")
    found, lines = examples(path)
    assert len(found) >= 3
    assert sum(f"dola {' '.join(path)}" in line for line in lines) >= 2
    for words in found:
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command, *words = command.commands[words[0]], *words[1:]
        command.make_context(" ".join(path), words)


def test_dola_alone_shows_five_verbs_and_where_the_rest_is(dola_command):
    ended = dola_command()
    assert (ended.code, ended.out) == (2, "")
    shown = re.findall(r"^  ([a-z-]+)  ", sections(ended.err)["Start here"], re.MULTILINE)
    assert tuple(shown) == START
    assert len(shown) == 5
    assert re.search(r"^  dola --help +all commands$", ended.err, re.MULTILINE)
    assert len(ended.err.splitlines()) <= 15


def test_all_verbs_are_listed_once(help_of):
    found = sections(help_of())
    listed = re.findall(r"^  ([a-z-]+)  ", found["Start here"] + found["More"], re.MULTILINE)
    assert sorted(listed) == sorted({path[0] for path in VERBS})


def test_a_default_in_words_has_one_pair_of_brackets(help_of):
    page = " ".join(help_of("generate").split())
    assert "[default: if it has one]" in page
    assert "default: (" not in page
