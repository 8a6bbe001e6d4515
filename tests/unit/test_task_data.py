"""Reading data sets: the rows from each kind of file and from the hub, and the errors for invalid files."""

import hashlib
import json
import re
import sys
from contextlib import suppress
from types import SimpleNamespace

import pytest

from dola.errors import DataError, MissingExtraError
from dola.installed.hints import install_line
from dola.tasks import TASKS
from dola.tasks.data import Data, HubDataset, Row, open_data


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def hub(monkeypatch):
    """A hub with one data set; returns the calls that were made."""
    calls = []

    def load_dataset(name, config, *, split):
        calls.append((name, config, split))
        if name != "owner/set":
            raise ValueError(f"Dataset '{name}' doesn't exist\non the Hub")
        return [{"question": "why?", "answer": True}, {"answer": False, "question": "é"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset, __spec__=object()))
    return calls


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", '\ufeffq,a\n"one, with\na line",yes\nzwei,é\n'),
        ("a.csv", 'q;a\n"one, with\na line";yes\nzwei;é\n\n;\n'),
        ("a.csv", 'sep=|\nq|a\n"one, with\na line"|yes\nzwei|é\n'),
        ("a.tsv", 'q\ta\n"one, with\na line"\tyes\nzwei\té\n'),
        ("a.json", '{"q": "one, with\\na line", "a": "yes"}\n{"q": "zwei", "a": "é"}\n'),
        ("a.jsonl", '[{"q": "one, with\\na line", "a": "yes"}, {"q": "zwei", "a": "é"}]'),
        ("a.ndjson", '{\n"q": "one, with\\na line",\n"a": "yes"}\n{"q": "zwei", "a": "é"}'),
        ("a.json", '[{"q": "one, with\\na line", "a": "yes"}, {"q": "zwei", "a": "é"}]'),
        ("a.JSONL", '{"q": "one, with\\na line", "a": "yes"}\n\n{"q": "zwei", "a": "\\u00e9"}\n'),
    ],
)
def test_kinds_of_files(write, name, content):
    path = write(name, content)
    data = open_data(path)
    assert [row.fields for row in data.rows] == [{"q": "one, with\na line", "a": "yes"}, {"q": "zwei", "a": "é"}]
    assert [(row.number, row.where) for row in data.rows] == [(1, f"{path}, row 1"), (2, f"{path}, row 2")]
    (origin,) = data.origins
    assert (origin.name, origin.sha256) == (str(path), hashlib.sha256(content.encode()).hexdigest())


def test_files_are_joined_in_their_order(write):
    first, second = write("b.jsonl", '{"n": 1}\n{"n": 2}\n'), write("a.jsonl", '{"n": 3}\n')
    data = open_data([first, str(second)])
    assert [row.fields["n"] for row in data.rows] == [1, 2, 3]
    assert (data.rows[2].number, data.rows[2].where) == (3, f"{second}, row 1")


def test_known_files_are_distinguished_from_others(write):
    one, other = write("one.json", '[{"n": 1}]'), write("other.json", '[{"n": 2}]')
    published = {hashlib.sha256(one.read_bytes()).hexdigest()}
    assert [origin.known for origin in open_data([one, other], published=published).origins] == [True, False]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "q", "does not have the name of a data file"),
        ("a.csv", b"q\n\xff\n", "not valid UTF-8"),
        ("a.csv", "q\n1,2\n", "cannot be read as .csv: row 1 has more cells than the header"),
        ("a.csv", 'q\n"cut off', "cannot be read as .csv"),
        ("a.csv", "q\n", "does not contain any rows"),
        ("a.json", '{"q": 1}', "holds one object, not a list of objects"),
        ("a.json", '[{"q": 1}, 2]', "row 2 is the number 2, not an object"),
        ("a.json", "[", "cannot be read as .json"),
        ("a.jsonl", '{"q": 1}\n{"q', "cannot be read as .jsonl: line 2"),
        ("a.jsonl", "\n", "does not contain any rows"),
        ("a.json", "", "does not contain any rows"),
        ("a.csv", "", "does not contain any rows"),
        ("a.json", '{"q": {"0": 1}, "a": {"0": 2}}', "holds one object, not a list of objects"),
        ("a.jsonl", '{"q": 1, "q": 2}', "line 1 is not JSON: the field 'q' is listed twice"),
        ("a.csv", "q,q\n1,2\n", "two columns are called 'q'"),
        ("a.csv", "q\nä\n".encode("utf-16"), "is UTF-16, not UTF-8"),
        ("a.jsonl.gz", b"\x1f\x8b", "is compressed with gzip"),
        ("a.parquet", b"PAR1\x15\x04", "is a Parquet file"),
    ],
)
def test_invalid_files(write, name, content, message):
    with pytest.raises(DataError, match=message):
        open_data(write(name, content))


@pytest.mark.parametrize(
    ("name", "content", "may_be"),
    [
        ("a.json", '[{"q": 1}, {"q', True),
        ("a.json", '[{"q": 1},', True),
        ("a.jsonl", '{"q": 1}\n{"q": "x', True),
        ("a.csv", 'q\n"cut off', True),
        ("a.json", '[{"q": 1}}]', False),
        ("a.json", '[{"q": 1},]', False),
        ("a.jsonl", '{"q": 1\n{"q": 2}', False),
        ("a.csv", 'q,a\n"x"y,z\n', False),
        ("a.csv", "q\n1,2\n", False),
        ("a.csv", "q,q\n1,2\n", False),
    ],
)
def test_a_file_is_said_to_be_cut_off_only_where_it_may_be(write, name, content, may_be):
    with pytest.raises(DataError) as refused:
        open_data(write(name, content))
    assert ("it may be cut off" in refused.value.hint) == may_be


def test_a_cell_of_any_length(write):
    long = "x" * 200_000
    (row,) = open_data(write("a.csv", f'q,a\n"{long}",b\n')).rows
    assert row.text("q") == long


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        ("['a' 'b']", ["a", "b"]),
        ("['a'\n \"it's\"]", ["a", "it's"]),
        ("array(['a', 'b'], dtype=object)", ["a", "b"]),
        ('["a", "\\u00e9"]', ["a", "é"]),
        ("['it\\'s']", ["it's"]),
        ("[]", []),
        ("a; b", ["a", " b"]),
        ("[1] says a; b", ["[1] says a", " b"]),
        ("[None of the above]", ["[None of the above]"]),
    ],
)
def test_lists_of_texts(cell, expected):
    assert Row({"a": cell}, 1, "a.csv, row 1").texts("x", "a", separator=";") == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (["a", None], "item 2 is null, not text"),
        ([3, "a"], "item 1 is the number 3, not text"),
        ([["a"]], "item 1 is a list, not text"),
        (3, "is the number 3, not a list of texts"),
        (True, "is true, not a list of texts"),
        ({"a": 1}, "is an object, not a list of texts"),
        ("['a', None]", "item 2 is None, not text"),
        ("['a', nan]", "item 2 is nan, not text"),
        ("['a' 3]", "item 2 is 3, not text"),
        ('["a", 3]', "item 2 is the number 3, not text"),
        ("['a' ... 'z']", "item 2 is ..., not text"),  # numpy left the others out
        ("['a' 'b', 'c']", "does not continue like one"),
        ("['a', 'b'", "does not continue like one"),
        ("['\\N{none}']", "is not a text"),
    ],
)
def test_what_is_not_a_list_of_texts_is_named_with_row_and_column(cell, message):
    with pytest.raises(DataError) as refused:
        Row({"answers": cell}, 1, "a.csv, row 1").texts("Answers", "answers", separator=";")
    assert refused.value.message.startswith("a.csv, row 1: the field 'answers'")
    assert message in refused.value.message
    assert ("cut off" in refused.value.hint) == (cell == "['a', 'b'")


def test_answers_of_truthfulqa_as_tables_have_them(write):
    columns = "question;best_answer;correct_answers;incorrect_answers\n"
    path = write("TruthfulQA.csv", columns + "Why?;So.;['So.' 'Thus'];[\"No\"]\nWho?;I;I; ['You', None]\n")
    with pytest.raises(DataError, match="row 2: the field 'incorrect_answers': item 2 is None, not text"):
        TASKS["truthfulqa-mc"].items(path)
    path.write_text(columns + "Why?;So.;['So.' 'Thus'];[\"No\"]\n")
    (item,) = TASKS["truthfulqa-mc"].items(path)
    assert (item.continuations, item.correct) == ((" So.", " Thus.", " No."), (True, True, False))


def test_strategyqa_as_a_table(write):
    path = write("train.csv", "qid,question,answer\na,why?,True\nb,who?,false\n")
    assert [item.gold for item in TASKS["strategyqa"].items(path)] == ["yes", "no"]
    path.write_text("qid,question,answer\na,why?,1\n")
    with pytest.raises(DataError, match="row 1: the field 'answer' is '1'; it must be true or false"):
        TASKS["strategyqa"].items(path)


@pytest.mark.parametrize("name", ["none.csv", "folder/none.csv", "./none", "none"])
def test_missing_files_are_not_taken_for_hub_ids(name):
    with pytest.raises(DataError, match=r"cannot be read: No such file or directory.*\n.*check the path"):
        open_data(name)


def test_a_task_s_missing_file_is_said_where_to_find():
    with pytest.raises(DataError, match=f"can be downloaded from {re.escape(TASKS['truthfulqa-mc'].homepage)}"):
        TASKS["truthfulqa-mc"].items("TruthfulQA.csv.csv")


def test_fields_of_a_row():
    row = Row({"Q": " why? ", "n": 3, "empty": " ", "none": None, "list": [""], "no": False}, 7, "a.csv, row 7")
    assert row.text("question", "Q") == " why? "
    assert row.value("n") == 3
    assert row.value("no") is False
    for name in ("empty", "none", "list"):
        with pytest.raises(DataError, match=f"a.csv, row 7: the field '{name}' is empty"):
            row.value(name)
    with pytest.raises(DataError, match=r"a.csv, row 7: the field 'x' is missing; the row has 'Q', 'n'"):
        row.value("x", "y")
    with pytest.raises(DataError, match="the field 'n' is the number 3, not text"):
        row.text("n")


def test_a_short_csv_row_lacks_its_last_fields(write):
    (row,) = open_data(write("a.csv", "q,a\nwhy\n")).rows
    with pytest.raises(DataError, match="row 1: the field 'a' is missing"):
        row.text("a")


def test_the_hub(hub):
    data = open_data(HubDataset("owner/set", "main", "train"))
    assert hub == [("owner/set", "main", "train")]
    assert [row.fields["question"] for row in data.rows] == ["why?", "é"]
    (origin,) = data.origins
    lines = '{"answer": true, "question": "why?"}\n{"answer": false, "question": "é"}'
    assert origin.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    assert (origin.name, origin.known) == ("owner/set:main:train", False)
    assert data.rows[1].where == "owner/set:main:train, row 2"


def test_a_hub_id_by_itself(hub, tmp_path, monkeypatch):
    assert open_data("owner/set").origins[0].name == "owner/set:test"
    assert hub == [("owner/set", None, "test")]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "set").write_text("a file of that name goes first")
    with pytest.raises(DataError, match="does not have the name of a data file"):
        open_data("owner/set")


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        ("hf:owner/set", ("owner/set", None, "test")),
        ("hf:owner/set:train", ("owner/set", None, "train")),
        ("hf:owner/set:main:train", ("owner/set", "main", "train")),
        ("hf:set", ("set", None, "test")),
    ],
)
def test_a_hub_id_with_config_and_split(hub, text, asked):
    with suppress(DataError):  # this hub has one data set
        open_data(text)
    assert hub == [asked]


@pytest.mark.parametrize("text", ["hf:", "hf:a/b:", "hf:a/b:c:d:e"])
def test_an_invalid_hub_id(text):
    with pytest.raises(DataError, match="does not name a hub data set"):
        open_data(text)


def test_a_hub_that_does_not_answer(hub):
    with pytest.raises(DataError, match=r"The hub data set owner/none:test cannot be read: Dataset .* doesn't exist\n"):
        open_data("owner/none")


def test_the_hub_needs_a_package(monkeypatch):
    monkeypatch.setattr("dola.tasks.data.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape(install_line("eval"))):
        open_data("owner/set")


def test_a_task_opens_its_own_hub_data_set(monkeypatch):
    opened = []
    monkeypatch.setattr("dola.tasks.task.open_data", lambda source, **kwargs: opened.append(source) or Data((), ()))
    for source in (None, "openai/gsm8k", ["openai/gsm8k"], "somebody/gsm8k"):
        TASKS["gsm8k"].open(source)
    own = HubDataset("openai/gsm8k", "main", "test")
    assert opened == [own, [own], [own], ["somebody/gsm8k"]]


def test_a_task_that_the_hub_does_not_have():
    words = r"hub does not have factor-wiki; its data files are wiki_factor.csv.\n.*AI21Labs/factor"
    with pytest.raises(DataError, match=words):
        TASKS["factor-wiki"].open()


def test_items_given_twice(write):
    row = {"qid": "x", "question": "why?", "answer": True}
    path = write("train.json", json.dumps([row]))
    assert len(TASKS["strategyqa"].items(path)) == 1
    with pytest.raises(DataError, match="Two items of strategyqa have the id 'x'"):
        TASKS["strategyqa"].items([path, path])
