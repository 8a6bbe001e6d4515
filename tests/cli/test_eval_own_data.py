"""`dola eval questions.csv`: one's own questions become a verdict, and mistakes in them are named."""

import io
import json
import os
import re
import sys
import threading

import pytest

EVEN = [(f"Is {i} even?", "yes" if i % 2 == 0 else "no", "no" if i % 2 == 0 else "yes") for i in range(24)]
CHOICES = "question,answer,wrong\n" + "".join(f"{','.join(row)}\n" for row in EVEN)
ANSWERS = "question,answer\n" + "".join(f"{question},{answer}\n" for question, answer, _ in EVEN[:4])


@pytest.fixture
def asked(dola_command, folder, tmp_path):
    """`dola eval` of a file with this content."""

    def run(content, *options, name="questions.csv"):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8")
        return dola_command("eval", path, "--model", folder, *options)

    return run


def test_questions_with_wrong_answers_become_a_verdict(asked):
    ended = asked(CHOICES, "--json")
    found = json.loads(ended.out)
    assert ended.code == 0
    assert "24 questions, each with answers to choose from" in ended.err
    assert "> Q: Is 0 even?" in ended.err
    assert found["metrics"][0] == "accuracy"
    assert found["verdict"]
    assert {each["verdict"] for each in found["findings"].values()} <= {"better", "worse", "no difference", "cannot tell"}


def test_questions_with_answers_are_written_and_compared(asked):
    ended = asked(ANSWERS, "--json", "--max-new-tokens", 2)  # the penalty of 1.2 and its control are there unasked
    found = json.loads(ended.out)
    assert [each["name"] for each in found["ways"]] == ["vanilla", "vanilla, penalty 1.2", "DoLa low", "DoLa high"]
    assert found["metrics"] == ["contains", "exact_match", "f1", "answered", "refused"]
    assert found["settings"]["max_new_tokens"] == 2


@pytest.mark.parametrize("method", ["confident", "delta", "sled"])
@pytest.mark.parametrize("content", [CHOICES, ANSWERS], ids=["chosen", "written"])
def test_a_report_on_another_method_does_not_speak_of_dola(asked, tmp_path, content, method):
    page, lines = tmp_path / "report.html", tmp_path / "report.md"
    more = () if content is CHOICES else ("--max-new-tokens", 2)
    ended = asked(content, "--method", method, "--html", page, "--markdown", lines, *more)
    assert ended.code == 0, ended.err
    shown = page.read_text().partition('<script type="application/json"')[0]
    for text in (ended.out, lines.read_text(), shown):
        assert method in text
        assert not re.search("DoLa|contrast|premature", text), re.search(".*(DoLa|contrast|premature).*", text)


def test_standard_input_is_a_file_too(dola_command, folder, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps([{"question": "Q?", "answer": "a"}]).encode())))
    ended = dola_command("eval", "-", "--model", folder, "--check")
    assert ended.code == 0
    assert "standard input: 1 question. " in ended.out


def test_check_says_what_was_understood_and_how_many_questions_a_difference_needs(asked):
    ended = asked(CHOICES, "--check")
    assert ended.code == 0
    assert "right: yes" in ended.out
    assert "wrong: no" in ended.out
    assert re.search(r"Questions needed to show a difference: [\d,]+ for 2 points, [\d,]+ for 5 points, ", ended.out)
    assert ended.err == ""
    assert "With 24 questions, only a difference of more than 40 points can be detected." in ended.out


def test_rows_of_a_file_and_groups(asked, tmp_path):
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps([{"layers": [2]}, {"layers": [2, 4], "control": "random"}]))
    grouped = "question,answer,wrong,group\n" + "".join(f"{','.join(row)},{i // 4}\n" for i, row in enumerate(EVEN))
    ended = asked(grouped, "--ways", rows, "--smallest", 5, "--json")
    found = json.loads(ended.out)
    assert [each["name"] for each in found["ways"]] == ["vanilla", "DoLa 2", "DoLa 2,4, random layer", "length alone"]
    assert list(found["findings"]) == ["DoLa 2"]
    assert (len(set(found["groups"])), found["smallest"]) == (6, 0.05)
    assert "6 groups" in ended.err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a pipe with a name")
def test_a_file_of_rows_is_read_once(asked, tmp_path):
    """So it may be a pipe, as `--ways <(jq ...)` makes one."""
    pipe = tmp_path / "rows.fifo"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_text(json.dumps([{"layers": [2]}])), daemon=True).start()
    found = json.loads(asked(CHOICES, "--ways", pipe, "--json").out)
    assert [each["name"] for each in found["ways"]] == ["vanilla", "DoLa 2", "length alone"]


def test_own_questions_run_sequentially(asked):
    grouped = "question,answer,wrong,group\n" + "".join(f"{','.join(row)},{i // 4}\n" for i, row in enumerate(EVEN))
    found = json.loads(asked(grouped, "--sequential", "--smallest", 90, "--json").out)
    assert found["looks"] == [8, 12, 20, 24]  # a quarter is 6, and a group of 4 is not split
    assert len(found["item_ids"]) in found["looks"]
    assert all(each["items"] in found["looks"] for each in found["findings"].values())


def test_columns_template_and_shots(asked, tmp_path):
    shots = tmp_path / "shots.csv"
    shots.write_text("Frage,Antwort,falsch\nIs 7 even?,no,yes\n")
    names = ["--column", "question=Frage", "--column", "answer=Antwort", "--column", "wrong=falsch"]
    content = "Frage,Antwort,falsch\nIs 8 even?,yes,no\n"
    ended = asked(content, *names, "--prompt-template", "{question} =>", "--shots", shots, "--check")
    assert "  > Is 7 even? => no" in ended.out
    assert "  > Is 8 even? =>" in ended.out


@pytest.mark.parametrize(
    ("content", "options", "said", "hint"),
    [
        ("", [], "questions.csv does not contain any rows", "a line that names its columns"),
        ("Frage,Antwort\na,b\n", [], "No column holds questions; there are 'Frage', 'Antwort'", "--column question=COLUMN"),
        (ANSWERS, ["--column", "question=Frage"], "The data have no column 'Frage'", "--column question=COLUMN"),
        (ANSWERS, ["--column", "question=Question"], "The data have no column 'Question'", "--column question=question"),
        ("Frage,Antwort\na,b\n", ["--column", "Frage=question"], "'Frage' is not a kind of column", "--column question=Frage"),
        (ANSWERS, ["--column", "question"], "is not WHAT=NAME", "--column question=Frage"),
        (ANSWERS, ["--data", "x.csv"], "--data was given too", "dola eval"),
        (ANSWERS, ["--ways", "nowhere.json"], "nowhere.json", "standard, methods, full"),
        (ANSWERS, ["--prompt-template", "no place"], "has no {question}", "Q: {question}"),
        ("question,answer,wrong\nq,a,a\n", [], "among the right answers and among the wrong ones", "take it out"),
    ],
)
def test_mistakes_are_named_and_nothing_is_run(asked, content, options, said, hint):
    ended = asked(content, *options)
    assert ended.code == 2
    assert said in ended.err
    assert hint in ended.err
    assert "Traceback" not in ended.err


def test_options_for_a_file_are_refused_for_a_task(dola_command):
    ended = dola_command("eval", "gsm8k", "--column", "question=q")
    assert ended.code == 2
    assert "--column is for a file of your own; gsm8k has its own prompts" in ended.err


def test_include_path_is_for_tasks_of_the_harness(asked, tmp_path):
    ended = asked(ANSWERS, "--include-path", tmp_path)
    assert ended.code == 2
    assert "--include-path does not apply to" in ended.err
