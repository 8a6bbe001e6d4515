"""`dola generate --file`: each file is read in its format, or refused with the reason."""

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from odd_tokenizers import LOSES, save_odd

from dola.cli.prompts import Prompt, read_prompts
from dola.errors import UsageError

LONG = "x" * 200_000
READ = [
    # name, content, --prompt-field, prompts with their other fields
    ("a.txt", "One\r\nTwo\n\n Three\n", None, [("One", {}), ("Two", {}), (" Three", {})]),
    ("a.txt", "One\rTwo", None, [("One", {}), ("Two", {})]),
    ("a.txt", "[1, 2, 3]\n[INST] Hi\n{x} is", None, [("[1, 2, 3]", {}), ("[INST] Hi", {}), ("{x} is", {})]),
    ("a.txt", '{"a": 1} what is it?\n"To be"', None, [('{"a": 1} what is it?', {}), ('"To be"', {})]),
    ("a.txt", "Yes, answer\nred,green\nText, please", None, [("Yes, answer", {}), ("red,green", {}), ("Text, please", {})]),
    ("a.txt", "PAR1 is a gene\nBZh\n", None, [("PAR1 is a gene", {}), ("BZh", {})]),
    ("a.txt", "[{'a': 1}] is what?", None, [("[{'a': 1}] is what?", {})]),
    ("noname", "One\u2028still one", None, [("One\u2028still one", {})]),
    ("a.csv", "prompt,id\nOne,1\n\nTwo,2\n", None, [("One", {"id": "1"}), ("Two", {"id": "2"})]),
    ("a.csv", "\ufeffid;prompt\n1;Was kostet 1,5 kg?\n", None, [("Was kostet 1,5 kg?", {"id": "1"})]),
    ("a.csv", 'sep=;\r\n"prompt";id\r\n"Two\r\nlines";2\r\n', None, [("Two\r\nlines", {"id": "2"})]),
    ("a.csv", "prompt\tid\nx, y\t2\n", None, [("x, y", {"id": "2"})]),
    ("a.csv", 'id, prompt\n1, "Hello, you"\n', None, [("Hello, you", {"id": "1"})]),
    ("a.csv", f"prompt,id\n{LONG},1\n", None, [(LONG, {"id": "1"})]),
    ("a.csv", "prompt,note,,\na,b,,\n,,,\n", None, [("a", {"note": "b"})]),
    ("a.csv", "id,frage\n1,Wer?\n", "frage", [("Wer?", {"id": "1"})]),
    ("a.csv", "prompt,question\na,b\n", "question", [("b", {"prompt": "a"})]),
    ("a.csv", '{"prompt": "a"}\n{"prompt": "b"}\n', None, [("a", {}), ("b", {})]),
    ("a.tsv", 'prompt\tid\n"say ""yes"", now"\t2\n', None, [('say "yes", now', {"id": "2"})]),
    ("a.TSV", "prompt,id\nx,2\n", None, [("x", {"id": "2"})]),
    ("a.json", '["One", "Two"]', None, [("One", {}), ("Two", {})]),
    ("a.json", '[{"prompt": "One", "id": [7]}, {"prompt": "Two"}]', None, [("One", {"id": [7]}), ("Two", {})]),
    ("a.json", '{"prompt": "One"}\n{"prompt": "Two"}\n', None, [("One", {}), ("Two", {})]),
    ("a.json", '{\n "prompt": "One"\n}\n{\n "prompt": "Two"\n}', None, [("One", {}), ("Two", {})]),
    ("a.json", '[{"question": "One", "prompt": 3}]', "question", [("One", {"prompt": 3})]),
    ("a.jsonl", '[{"prompt": "One"}]', None, [("One", {})]),
    ("a.jsonl", '"One"\n"Two"\n', None, [("One", {}), ("Two", {})]),
    ("a.txt", '{"prompt": "One", "id": 1}\n{"prompt": "Two"}\n', None, [("One", {"id": 1}), ("Two", {})]),
    ("a.txt", '[\n  "One",\n  "Two"\n]', None, [("One", {}), ("Two", {})]),
]  # fmt: skip
REFUSED = [
    # name, content, --prompt-field, words of the message, words of the hint
    ("a.txt", "prompt,answer\nWho?,Me\n", None, "line 1 is the header of a table, not a prompt: prompt,answer", "a.csv"),
    ("a.txt", "question\nWho?\n", None, "line 1 is the header of a table", "a.csv"),
    ("a.txt", "id\tfrage\n1\tWer?\n", None, "line 1 is the header of a table", "a.csv"),
    ("a.txt", "| prompt | answer |\n|---|---|\n| Who? | Me |\n", None, "line 1 is the header of a table", "a.csv"),
    ("a.txt", "sep=;\nprompt;id\n", None, "line 1 is the header of a table", "a.csv"),
    ("a.txt", 'One\n{"prompt": "Two"}\n', None, 'line 2 is JSON, not a prompt: {"prompt": "Two"}', "a.jsonl"),
    ("a.txt", 'One\n{"prompt": "cut', None, "line 2 is JSON", "a.jsonl"),
    ("a.txt", '[\n  {"prompt": "One"},\n]', None, "line 1 is JSON", "a.jsonl"),
    ("a.txt", '"One"\n"Two"\n', None, "line 1 is JSON", "a.jsonl"),
    ("a.txt", '["One", "Two"]\n["Three"]\n', None, "line 1 is JSON", "a.jsonl"),
    ("a.txt", "One", "prompt", "--prompt-field is for JSON and tables", "omit --prompt-field"),
    ("a.csv", "id,frage\n1,Wer?\n", None, "has no column 'prompt'; its columns are 'id', 'frage'.", "--prompt-field id"),
    ("a.csv", "id,frage\n1,Wer?\n", "text", "has no column 'text'; its columns are 'id', 'frage'.", "--prompt-field id"),
    ("a.csv", "instruction,input\na,b\n", None, "several columns that may hold prompts; its columns are", "instruction"),
    ("a.csv", "Who wrote Hamlet?\nWhat is it?\n", None, "does not look like one", "write prompt in a line before"),
    ("a.csv", "prompt,note,note\na,b,c\n", None, "two columns are called 'note'", "its own name"),
    ("a.csv", "prompt,id\na\n", None, "row 1 (line 2) has 1 cells, but the header has 2", "quotes"),
    ("a.csv", 'prompt,id\n"a\nb",1\nc,d,2\n', None, "row 2 has more cells than the header: 3, not 2 (line 4)", "quotes"),
    ("a.csv", "prompt,id\na,1\n,2\n", None, "row 2 (line 3) has a prompt that is empty", '{"prompt": '),
    ("a.csv", 'prompt\n"open\n', None, "the row that begins in line 2 has an unclosed quote", "cut off"),
    ("a.csv", 'prompt,id\n"Hello" he said,1\n', None, "the row that begins in line 2 is not CSV", "doubled"),
    ("a.csv", "prompt\n", None, "does not contain a prompt", "one prompt on each line"),
    (
        "a.csv",
        "id,chat\n1,\"[{'role': 'user', 'content': 'x'}]\"\n",
        "chat",
        "row 1 (line 2) is a list of chat messages, written as text",
        "message alone",
    ),
    (
        "a.csv",
        'prompt\n"[{""content"": ""x"", ""role"": ""user""}]"\n',
        None,
        "is a list of chat messages, written as text",
        "alone",
    ),
    ("a.jsonl", "\"[{'role': 'user'}]\"", None, "line 1 is a list of chat messages, written as text", "message alone"),
    ("a.txt", "One\n[{'role': 'user', 'content': 'x'}]\n", None, "line 2 is a list of chat messages", "message alone"),
    ("a.txt", b"%PDF-1.4\n%\xe2\xe3\n", None, "is a PDF file, not text", "pdftotext a.txt"),
    ("a.csv", "", None, "does not contain a prompt", "one prompt on each line"),
    ("a.json", "[]", None, "does not contain a prompt", "one prompt on each line"),
    ("a.json", '[{"prompt": null}]', None, "row 1 has a 'prompt' that is not a string but null", '{"prompt": '),
    ("a.json", '["a", 3]', None, "row 2 is the number 3, not an object or a text", '{"prompt": '),
    ("a.json", '{"prompt": ["a", "b"]}', None, "line 1 has a 'prompt' that is not a string but a list", "as text"),
    (
        "a.json",
        '[{"question": "One", "id": 3}]',
        None,
        "row 1 has no field 'prompt'; its fields are",
        "--prompt-field question",
    ),
    ("a.json", '["One"]', "question", "row 1 is a text; it has no field 'question'", "omit --prompt-field"),
    ("a.json", '[{"prompt": "One"}, {"pro', None, "line 1 is not JSON", "it may be cut off"),
    ("a.json", '[{"prompt": "a", "prompt": "b"}]', None, "the field 'prompt' is listed twice", '{"prompt": '),
    (
        "a.jsonl",
        '{"prompt": "a"}\n{"prompt": true}',
        None,
        "line 2 has a 'prompt' that is not a string but true",
        '{"prompt": ',
    ),
    ("a.jsonl", '{"prompt": "a"}\n{"prompt": "b"\n{"prompt": "c"}', None, "line 2 is not JSON", '{"prompt": '),
    (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "x"}]}',
        None,
        "its fields are 'messages'",
        "the user's message alone",
    ),
    (
        "a.jsonl",
        '{"prompt": [{"role": "user", "content": "x"}]}',
        None,
        "line 1 has a 'prompt' that is not a string but a list of chat messages",
        "the user's message alone",
    ),
    ("a.yaml", "- One\n", None, "is YAML, which is not supported", ".txt"),
    ("a.xlsx", "x", None, "is a workbook, which is not supported", ".txt"),
    ("a.csv.gz", gzip.compress(b"prompt\nx\n", mtime=0), None, "is compressed with gzip", "gzip -dc a.csv.gz > a.csv"),
    ("a.csv", b"PK\x03\x04rest", None, "is a zip archive or an Excel workbook", "CSV UTF-8"),
    ("a.csv", "prompt\nä\n".encode("utf-16"), None, "is UTF-16, not UTF-8", "iconv -f utf-16 -t utf-8 a.csv > a-utf8.csv"),
    ("a.csv", "prompt\nä\n".encode("utf-16-le"), None, "it is UTF-16, or not text", "iconv -f utf-16"),
    ("a.csv", "prompt\nä\n".encode("latin-1"), None, "is not valid UTF-8", "iconv -f windows-1252 -t utf-8 a.csv > a-utf8.csv"),
]


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(name, content):
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return Path(name)

    return write


@pytest.mark.parametrize(("name", "content", "field", "expected"), READ, ids=lambda value: None)
def test_files_are_read_as_what_they_are(write, capsys, name, content, field, expected):
    found = read_prompts(None, write(name, content), field=field)
    assert [(prompt.text, prompt.fields) for prompt in found] == expected
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "content", "field", "what", "hint"), REFUSED, ids=lambda value: None)
def test_files_are_refused_as_what_they_are(write, name, content, field, what, hint):
    with pytest.raises(UsageError) as refused:
        read_prompts(None, write(name, content), field=field)
    assert refused.value.message.startswith(f"--file '{name}'") or field
    assert what in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("content", "column"),
    [
        ("question,answer\nWho?,Me\n", "question"),
        ("goal\nWho?\n", "goal"),
        ("Prompt,id\nWho?,1\n", "Prompt"),
        (",text\n0,Who?\n", "text"),
    ],
)
def test_the_chosen_column_is_reported(write, capsys, content, column):
    (found,) = read_prompts(None, write("a.csv", content))
    assert found.text == "Who?"
    assert capsys.readouterr().err == f"dola: --file 'a.csv': reading the prompts from column {column!r}.\n"


def test_where_prompts_come_from(write):
    path = write("a.csv", 'prompt\n\n"Two\nlines"\nOne\n')
    assert [prompt.where for prompt in read_prompts(None, path)] == [
        "--file 'a.csv', row 1 (line 3)",
        "--file 'a.csv', row 2 (line 5)",
    ]
    assert [prompt.where for prompt in read_prompts(None, write("a.txt", "\nOne\n"))] == ["--file 'a.txt', line 2"]
    assert Prompt("One", where="here") == Prompt("One")


def test_the_limit_of_csv_is_what_it_was(write):
    import csv

    before = csv.field_size_limit()
    read_prompts(None, write("a.csv", f"prompt\n{LONG}\n"))
    assert csv.field_size_limit() == before


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["Hi", "--prompt-field", "x"], "--prompt-field needs --file: it names a field of the file's entries."),
        (["--file", "-"], "--file '-' is not a file."),
    ],
)
def test_options_that_do_not_fit_a_file(dola_command, write, arguments, what):
    ended = dola_command("generate", *arguments)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith(f"dola: {what}\nHint: ")


@pytest.mark.parametrize(
    ("name", "content", "options", "expected"),
    [
        ("a.csv", "Frage;Nr\nEins;1\nZwei;2\n", ["--prompt-field", "Frage"], [("Eins", {"Nr": "1"}), ("Zwei", {"Nr": "2"})]),
        ("a.json", '["One", {"prompt": "Two", "id": 2}]', [], [("One", {}), ("Two", {"id": 2})]),
    ],
)
def test_tables_and_arrays_are_answered_entry_by_entry(dola_command, folder, write, name, content, options, expected):
    made = dola_command(
        "generate", "--file", write(name, content), "-m", folder, "--max-new-tokens", 2, "--json", "--no-chat", *options
    )
    assert (made.code, made.err) == (0, "")
    records = [json.loads(line) for line in made.out.splitlines()]
    assert [(record["prompt"], record["fields"]) for record in records] == expected
    for record in records:
        alone = dola_command("generate", record["prompt"], "-m", folder, "--max-new-tokens", 2, "--json", "--no-chat")
        assert json.loads(alone.out)["token_ids"] == record["token_ids"]


def test_a_prompt_that_is_too_long_names_its_line_and_the_hint_is_enough(dola_command, folder, write):
    path = write("a.txt", f"One\n{'word ' * 45}\n{'word ' * 48}\nFour\n")
    call = ["generate", "--file", path, "-m", folder, "--no-chat", "--batch-size", 2, "--layers", "off"]
    ended = dola_command(*call, "--max-new-tokens", 200)
    assert ended.code == 2
    assert ended.err.startswith("dola: --file 'a.txt', line 3: the prompt has ")
    flag, room = ended.err.partition("Hint: ")[2].split()
    assert (flag, int(room) < 200) == ("--max-new-tokens", True)
    assert dola_command(*call, flag, int(room) + 1).code == 2
    assert dola_command(*call, flag, room, "--output", "a.out").code == 0


@pytest.mark.parametrize("batch", [1, 8])
def test_a_prompt_that_cannot_be_made_into_tokens_names_its_line(dola_command, tmp_path, write, batch):
    folder = save_odd(tmp_path / "model", extra=1)
    path = write("a.txt", "One\n\nTwo <extra0>\nThree\n")
    ended = dola_command("generate", "--file", path, "-m", folder, "--batch-size", batch)
    assert (ended.code, ended.out) == (2, "")
    assert "dola: --file 'a.txt', line 3: the text has the token 401 ('<extra0>'), which the model does not" in ended.err


def test_a_prompt_whose_words_the_template_loses_names_its_line(dola_command, tmp_path, write):
    folder = save_odd(tmp_path / "model", template=LOSES["cut"])
    ended = dola_command("generate", "--file", write("a.csv", "prompt,id\nOne,1\nSeven,2\n"), "-m", folder)
    assert (ended.code, ended.out) == (2, "")
    assert "dola: --file 'a.csv', row 2 (line 3): the model's chat template drops or changes the words" in ended.err
    assert "Hint: --no-chat" in ended.err


def strict(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_fields_that_are_not_numbers_come_out_as_null_are_said_once_and_resume(dola_command, folder, write):
    path = write("a.jsonl", '{"prompt": "One", "score": NaN}\n{"prompt": "Two", "x": [1e999, {"y": -Infinity}]}\n')
    call = ["generate", "--file", path, "-m", folder, "--max-new-tokens", 2]
    said = "dola: --file 'a.jsonl', line 1, score and 2 more: NaN and infinity are not JSON; written as null\n"
    shown = dola_command(*call, "--json")
    assert (shown.code, shown.err) == (0, said)
    fields = [{"score": None}, {"x": [None, {"y": None}]}]
    assert [strict(line)["fields"] for line in shown.out.splitlines()] == fields
    assert dola_command(*call, "--output", "out.jsonl") == (0, "", said)
    whole = Path("out.jsonl").read_text()
    assert [strict(line)["fields"] for line in whole.splitlines()] == fields
    assert dola_command(*call, "--output", "out.jsonl").code == 0
    assert Path("out.jsonl").read_text() == whole
    before = whole.replace("null}", "NaN}", 1)  # as earlier versions wrote it
    assert before != whole
    Path("out.jsonl").write_text(before)
    assert dola_command(*call, "--output", "out.jsonl").code == 0


PIECES = ['{"prompt": "a"}', "prompt", ",", "\n", '"', "[", "]", "x", "é", "NaN", "null", ";"]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".txt", ".csv", ".tsv", ".json", ".jsonl", ""]),
    content=st.one_of(
        st.binary(max_size=80),
        st.text("prom,;\t|\"'\n\r[]{}:= 1", max_size=60).map(str.encode),
        st.lists(st.sampled_from(PIECES), max_size=20).map("".join).map(str.encode),
    ),
)
def test_any_file_is_read_or_refused_in_plain_words(tmp_path, suffix, content):
    path = tmp_path / f"any{suffix}"
    path.write_bytes(content)
    try:
        found = read_prompts(None, path)
    except UsageError:
        return
    assert found
    assert all(prompt.text.strip() and prompt.where for prompt in found)
    for prompt in found:
        strict(json.dumps(prompt.fields))
