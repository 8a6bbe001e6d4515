"""Bad input to `dola eval questions.csv`: a clear message and exit 2, never a traceback; what was interrupted continues."""

import io
import json
import sys

import pytest

ROWS = [(f"Is {i} even?", "yes" if i % 2 == 0 else "no", "no" if i % 2 == 0 else "yes") for i in range(6)]
CHOICES = "question,answer,wrong\n" + "".join(f"{','.join(row)}\n" for row in ROWS)
ANSWERS = "question,answer\n" + "".join(f"{question},{answer}\n" for question, answer, _ in ROWS)


@pytest.fixture
def asked(dola_command, folder, tmp_path):
    """`dola eval` of a file with this content."""

    def run(content, *options, name="questions.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return dola_command("eval", path, "--model", folder, *options)

    return run


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("questions.csv", "", "does not contain any rows"),
        ("questions.csv", "question,answer\n", "does not contain any rows"),
        ("questions.csv", "\n \n\n", "does not contain any rows"),
        ("questions.json", "", "does not contain any rows"),
        ("questions.json", "[]", "does not contain any rows"),
        ("questions.jsonl", "\n", "does not contain any rows"),
        ("questions.tsv", "question\tanswer\n", "does not contain any rows"),
        ("questions.csv", b"\x00\x01\xff\xfe" * 40, "questions.csv"),
        ("questions.csv", "question,answer\nwhy,\nwho,\n", "The column 'answer' is empty in all 2 rows"),
        ("questions.csv", "question,answer,id\nwhy,a,7\nwho,b,7\n", "have the id '7'"),
        ("questions.csv", "question,answer,wrong\nwhy,Paris,Rome|paris.\n", "among the right answers and among the wrong ones"),
        ("questions.csv", 'question,answer\nwhy,"a\n', "has an unclosed quote"),
        ("questions.json", '{"question": ["a"], "answer": ["b"]}', "holds one object, not a list of objects"),
        ("questions.json", '[{"question": "a", "ans', "is not JSON"),
        ("questions.json", '["why", "who"]', "row 1 is text, not an object with fields"),
        ("questions.json", '[{"question": "Is it?", "answer": true}]', "the field 'answer' is true, not text"),
        ("questions.json", '[{"question": 3, "answer": "x"}]', "the field 'question' is the number 3, not text"),
        ("questions.csv", "question\nwhy?\nwho?\n", "No column holds answers; there are 'question'"),
        ("questions.csv", "Why is it?,so\nWho?,me\n", "the first line of a table names its columns"),
        ("questions.csv", "question,answer\nwhy,yes\nété?,oui\n".encode("latin-1"), "not valid UTF-8: byte 0xe9 in line 3."),
        ("questions.csv", ANSWERS.encode("utf-16"), "is UTF-16, not UTF-8"),
        ("questions.csv", "question,answer,wrong\nwhy,,no\nwho,yes,no\n", "row 1: the field 'answer' is empty"),
        ("questions.csv", "question,choices,label\nwhy,Paris|Rome,2\n", "the label '2' names none of the 2 choices"),
        ("questions.csv", b"PK\x03\x04" + bytes(range(99)), "a zip archive or an Excel workbook"),
    ],
)
def test_files_that_cannot_be_used(asked, name, content, said):
    ended = asked(content, name=name)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Hint: " in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize(
    ("content", "question", "right"),
    [
        (b"\xef\xbb\xbfquestion,answer\nwhy?,a\n", "> why?", "right: a"),
        ("question;answer\nWhat is 1,5 + 1?;2,5\n", "> What is 1,5 + 1?", "right: 2,5"),
        ('question,answer\n"One\nand ""two""?",a\n', '> and "two"?', "right: a"),
        ("question,answer\rwhy?,a\rwho?,b\r", "> who?", "right: b"),
        ("sep=;\r\nquestion;answer\r\nwhy?;a\r\n", "> why?", "right: a"),
        ("Question , ANSWER\nwhy?,a\n", "> why?", "right: a"),
    ],
    ids=["byte order mark", "semicolons", "quoted line ends", "old line ends", "of Excel", "names with spaces"],
)
def test_files_that_can_be_used(asked, content, question, right):
    ended = asked(content, "--check")
    assert (ended.code, ended.err) == (0, "")
    assert question in ended.out
    assert right in ended.out


def test_answers_that_differ_by_a_sign_alone_are_not_the_same(asked):
    ended = asked("question,answer,wrong\nWhat is 1 - 3?,-2,2\nWhich language?,C++,C|C#\n", "--check")
    assert ended.code == 0, ended.err
    assert "wrong: C | C#" in ended.out


def test_a_mistyped_method_is_found_before_any_data_are_read(dola_command, folder, tmp_path):
    ended = dola_command("eval", tmp_path / "absent.csv", "-m", folder, "--method", "confidnt")
    assert ended.code == 2
    assert "method='confidnt' is unknown" in ended.err
    assert "did you mean confident?" in ended.err


def test_a_folder_in_place_of_a_file(dola_command, folder, tmp_path):
    (tmp_path / "questions.csv").mkdir()
    ended = dola_command("eval", tmp_path / "questions.csv", "-m", folder)
    assert (ended.code, ended.out) == (2, "")
    assert "cannot be read: Is a directory" in ended.err


@pytest.mark.parametrize("flag", ["--html", "--markdown", "--results", "--chart"])
def test_nothing_is_written_over_the_questions(asked, tmp_path, flag):
    ended = asked(CHOICES, flag, tmp_path / "questions.csv")
    assert (ended.code, ended.out) == (2, "")
    assert f"{flag} '{tmp_path / 'questions.csv'}' is a file that this command reads." in ended.err
    assert (tmp_path / "questions.csv").read_text() == CHOICES


def test_two_reports_in_one_file(asked, tmp_path):
    ended = asked(CHOICES, "--html", tmp_path / "a", "--markdown", tmp_path / "folder" / ".." / "a")
    assert ended.code == 2
    assert "--html and --markdown name one file" in ended.err


def test_results_of_another_run_are_named_and_kept(asked, tmp_path):
    results = tmp_path / "run.jsonl"
    assert asked(CHOICES, "--results", results).code == 0
    before = results.read_bytes()
    ended = asked(CHOICES + "Is 9 even?,no,yes\n", "--results", results)
    assert ended.code == 2
    assert "run.jsonl' belongs to a different run (data: " in ended.err
    assert max(map(len, ended.err.split())) < 120  # no digest in full
    ended = asked(CHOICES, "--results", results, "--layers", "2,4")
    assert "belongs to a different run (configurations: not those of the file)." in ended.err
    assert results.read_bytes() == before


@pytest.mark.parametrize(
    "step",
    [
        "dola.files.records.read_table",
        "dola.cli.evaluation.load_model",
        "dola.evidence.choice.score",
        "dola.evidence.evaluate.make_report",
        "dola.evidence.evaluate.with_traces",
        "dola.evidence.html_page.page",
    ],
)
def test_ctrl_c_at_any_moment(asked, tmp_path, monkeypatch, step):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    page, results = tmp_path / "report.html", tmp_path / "run.jsonl"
    options = ("--html", page, "--results", results, "--json")
    with monkeypatch.context() as patched:
        patched.setattr(step, interrupted)
        ended = asked(CHOICES, *options)
    assert (ended.code, ended.out) == (130, "")
    assert "Traceback" not in ended.err
    assert not page.exists()
    assert asked(CHOICES, *options).code == 0
    assert page.exists()


def test_a_column_that_does_not_exist_is_named_with_those_that_do(asked):
    ended = asked(ANSWERS, "--column", "answer=Antwort")
    assert ended.code == 2
    assert "The data have no column 'Antwort'. Columns: 'question', 'answer'." in ended.err


def test_empty_standard_input(dola_command, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    ended = dola_command("eval", "-", "-m", folder)
    assert ended.code == 2
    assert "standard input does not contain any rows" in ended.err


def test_a_question_that_is_longer_than_the_window_is_cut_and_named(asked):
    long = "why " * 400
    ended = asked(f"{CHOICES}{long},yes,no\n", "--json")
    assert ended.code == 0, ended.err
    assert any(
        "1 of 7 contexts were cut on the left" in note and "(items 7)" in note for note in json.loads(ended.out)["notes"]
    )
    ended = asked(f"{ANSWERS}{long},yes\n", "--json", "--max-new-tokens", 2)
    assert ended.code == 0, ended.err
    assert any("1 of 7 contexts were cut on the left" in note for note in json.loads(ended.out)["notes"])


def test_an_answer_that_is_longer_than_the_window_is_refused(asked):
    ended = asked(f"{CHOICES}why?,{'yes ' * 400},no\n", "--json")
    assert (ended.code, ended.out) == (2, "")
    assert "window" in ended.err or "positions" in ended.err
    ended = asked(ANSWERS, "--max-new-tokens", 100_000)
    assert (ended.code, ended.out) == (2, "")
    assert "Hint: " in ended.err


@pytest.mark.parametrize(("content", "step"), [(CHOICES, "dola.scoring.results_file.ResultsFile.add"),
                                              (ANSWERS, "dola.scoring.results_file.ResultsFile.add")])  # fmt: skip
def test_ctrl_c_says_how_to_continue_and_the_next_run_does(asked, tmp_path, monkeypatch, content, step):
    from dola.scoring.results_file import ResultsFile

    more = () if content is CHOICES else ("--max-new-tokens", 2)
    whole = asked(content, "--json", *more).out
    add, added = ResultsFile.add, []

    def interrupted(self, item, found):
        if len(added) == 3:
            raise KeyboardInterrupt
        added.append(item)
        add(self, item, found)

    results = tmp_path / "run.jsonl"
    with monkeypatch.context() as patched:
        patched.setattr(step, interrupted)
        ended = asked(content, "--results", results, *more)
        assert (ended.code, ended.out) == (130, "")
        assert f"{results} keeps what is done: re-run the same command to continue" in ended.err
        added.clear()
        ended = asked(content, *more)
        assert ended.code == 130
        assert "with --results FILE, the next run continues where this one ends" in ended.err
    kept = len(results.read_text().splitlines())
    assert kept == 4  # the head, and three results
    assert asked(content, "--results", results, "--json", *more).out == whole
    assert len(results.read_text().splitlines()) > kept


def test_a_big_file_is_announced_and_only_what_was_drawn_is_asked(asked, monkeypatch):
    monkeypatch.setattr("dola.cli.own_data.BIG", 1_000_000)
    content = "question,answer,wrong,note\n" + "".join(f"Is {i} even?,yes,no,{'x' * 200}\n" for i in range(10_000))
    ended = asked(content, "--limit", 2, "--check")
    assert ended.code == 0, ended.err
    assert "questions.csv: 2 MB, which takes a while; --limit draws some" in ended.err
    assert "2 of 10,000 questions" in ended.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--method", "dolla"), "method='dolla' is unknown"),
        (("--layers", "hihg"), "--layers 'hihg' is not known"),
        (("--ways", "nosuch.json"), "nosuch.json"),
        (("--chart", "a.doc"), "the file must end in .png"),
        (("--markdown", "no/a.md"), "--markdown 'no/a.md'"),
        (("--answers", "folder"), "--answers"),
        (("--signals", "--chart", "a.svg"), "--chart does not apply to --signals"),
    ],
    ids=lambda value: None,
)
def test_a_mistake_in_an_option_stands_alone(asked, options, said):
    ended = asked(CHOICES, *options)
    assert ended.code == 2
    assert ended.err.startswith("dola: ")
    assert said in ended.err
    assert "questions.csv:" not in ended.err
