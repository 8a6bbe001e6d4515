"""`dola eval questions.csv --judge`: a model decides what a right answer is; nothing that it said is lost or asked twice."""

import json

import pytest
from judge_server import judge_server

QUESTIONS = "question,answer\nWho wrote Hamlet?,Shakespeare\nCapital of France?,Paris\nWhen?,1599|1600\n"
TEXTS = {
    "vanilla": ["Shakespeare", "It is Paris, the city", ""],
    "vanilla, penalty 1.2": ["Shakespeare", "Lyon", "1600"],
    "DoLa low": ["Marlowe", "It is Paris, the city", "1600"],
    "DoLa high": ["Marlowe", "Paris", "who knows"],
}


@pytest.fixture
def asked(dola_command, folder, tmp_path, monkeypatch):
    """`dola eval` of QUESTIONS with a judge, where the model writes TEXTS."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("dola.tasks.endpoint.PAUSES", ())
    path = tmp_path / "questions.csv"
    path.write_text(QUESTIONS, encoding="utf-8")
    calls = []

    def written(model, tokenizer, prompts, way, settings):
        calls.append(way.name)
        numbers = [["Hamlet", "France", "When?"].index(next(w for w in ("Hamlet", "France", "When?") if w in text))
                   for text in map(tokenizer.decode, prompts)]  # fmt: skip
        return [(TEXTS[way.name][number], False) for number in numbers]

    monkeypatch.setattr("dola.evidence.generation._written", written)

    def run(server, *options, judge="j"):
        return dola_command("eval", path, "-m", folder, "--judge", judge, "--judge-url", server.url, *options)

    run.calls = calls
    return run


def says(prompt):
    answer = prompt.rpartition("Answer: ")[2]
    return "Yes." if "Paris" in answer or "1600" in answer or "Shakespeare" in answer else "no"


def means(ended, metric="judged"):
    return {way["name"]: way["items"][metric] for way in json.loads(ended.out)["ways"]}


def test_the_judge_decides_and_string_metrics_stay(asked):
    with judge_server(says) as server:
        ended = asked(server, "--json")
    found = json.loads(ended.out)
    assert ended.code == 0, ended.err
    assert found["metrics"] == ["judged", "contains", "exact_match", "f1", "answered", "refused"]
    assert found["settings"]["judges"] == ["j"]
    assert means(ended) == {
        "vanilla": [1, 1, 0],
        "vanilla, penalty 1.2": [1, 0, 1],
        "DoLa low": [0, 1, 1],
        "DoLa high": [0, 1, 0],
    }
    assert means(ended, "exact_match")["vanilla"] == [1, 0, 0]
    assert "judged" in found["verdict"] or "DoLa" in found["verdict"]


def test_equal_texts_are_judged_once_and_no_row_is_named(asked):
    with judge_server(says) as server:
        ended = asked(server, "--json")
        _, *prompts = server.prompts  # the first is a trial
    answers = [prompt.rpartition("Answer: ")[2].partition("\n")[0] for prompt in prompts]
    assert answers == ["Marlowe", "Shakespeare", "It is Paris, the city", "Lyon", "Paris", "1600", "who knows"]
    assert not any(word in prompt for prompt in prompts for word in ("DoLa", "vanilla", "penalty"))
    [note] = [line for line in json.loads(ended.out)["notes"] if "judge" in line]
    assert note == (
        "The judge j read 7 different answers, each once, and agrees with exact match on 85.7% of them; it calls 1 right that "
        "are not word for word a right answer, and 0 wrong that are."
    )


def test_replies_that_are_neither_count_as_wrong_and_are_counted(asked):
    with judge_server(lambda prompt: "Yes, I think so" if "Paris, the city" in prompt else says(prompt)) as server:
        ended = asked(server, "--json")
    assert means(ended)["vanilla"] == [1, 0, 0]
    assert "1 of the judge's replies were neither yes nor no. These answers count as wrong, in all rows." in ended.out


@pytest.mark.parametrize(
    ("reply", "shown"), [("<think>Paris is", "'<think>Paris is'"), ("", "nothing"), ("Maybe " * 20, "...'")]
)
def test_a_judge_that_does_not_answer_the_trial_question_is_refused(asked, reply, shown):
    with judge_server(lambda prompt: reply) as server:
        ended = asked(server)
    assert (ended.code, ended.out) == (2, "")
    assert "The judge j was asked a trial question, whose answer is yes, and replied " in ended.err
    assert f"{shown}.\nHint: name a model that replies with one word" in ended.err
    assert asked.calls == []


def test_the_report_says_that_a_judge_was_useless(asked):
    with judge_server(lambda prompt: "yes" if "capital of France" in prompt and "It is Paris." in prompt else "?") as server:
        ended = asked(server, "--json")
    [note] = [line for line in json.loads(ended.out)["notes"] if "judge" in line]
    assert note.startswith("No reply of the judge j was yes or no: all answers count as wrong")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "something that is not JSON"),
        (b"<html>", "something that is not JSON"),
        (b"[" * 50_000, "something that is not JSON"),
        (b"[1]", "without a text: [1]"),
        (b'{"choices": []}', "without a text"),
        (b'{"choices": [{"message": {"content": 3}}]}', "without a text"),
        (b'{"error": {"message": "no such model"}}', "no such model"),
    ],
)
def test_a_server_that_answers_garbage(asked, monkeypatch, body, said):
    from dola.tasks.endpoint import Answer, Endpoint

    monkeypatch.setattr(Endpoint, "_send", lambda self, url, asked: Answer(url, 200, body))
    with judge_server(says) as server:
        ended = asked(server)
    assert (ended.code, ended.out) == (2, "")
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_a_judge_that_dies_loses_nothing(asked, tmp_path):
    results = ("--results", tmp_path / "run.jsonl")
    left = [4]  # one of them is the trial

    def dying(prompt):
        left[0] -= 1
        return says(prompt) if left[0] >= 0 else 500

    with judge_server(dying) as server:
        ended = asked(server, *results)
    assert (ended.code, ended.out) == (2, "")
    assert f"It had judged 3 of 7 answers, which {tmp_path / 'run.jsonl'}.judged keeps." in ended.err
    assert "re-run the same command to continue" in ended.err
    written = len(asked.calls)
    with judge_server(says) as server:
        ended = asked(server, *results, "--json")
        assert len(server.requests) == 4  # and no trial: the run has begun
    assert ended.code == 0, ended.err
    assert means(ended)["DoLa high"] == [0, 1, 0]
    assert len(asked.calls) == written
    with judge_server(lambda prompt: 500) as server:  # a run that is complete asks nobody
        assert asked(server, *results, "--json").out == ended.out


def test_ctrl_c_while_the_judge_reads(asked, tmp_path, monkeypatch):
    from dola.evidence import judging

    results, reply, left = tmp_path / "run.jsonl", judging._reply, [3]

    def interrupted(*arguments):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return reply(*arguments)

    with judge_server(says) as server:
        with monkeypatch.context() as patched:
            patched.setattr(judging, "_reply", interrupted)
            ended = asked(server, "--results", results)
        assert (ended.code, ended.out) == (130, "")
        assert f"{results} keeps what is done: re-run the same command to continue" in ended.err
        asked_before = len(server.requests)
        ended = asked(server, "--results", results, "--json")
        assert ended.code == 0, ended.err
        assert len(server.requests) - asked_before == 4  # of 7 answers, and no trial


def test_without_a_results_file_the_message_says_what_would_keep_them(asked):
    with judge_server(lambda prompt: says(prompt) if "capital of France" in prompt else 500) as server:
        ended = asked(server)
    assert ended.code == 2
    assert "It had judged 0 of 7 answers, and nothing is kept without --results." in ended.err
    assert "add --results FILE" in ended.err


def test_a_server_that_refuses_is_found_before_anything_is_written_and_the_key_is_not_printed(asked, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    with judge_server(lambda prompt: 401) as server:
        ended = asked(server)
    assert server.requests[0][1] == "Bearer sk-secret"
    assert ended.code == 2
    assert "refused the request with status 401" in ended.err
    assert "OPENAI_API_KEY" in ended.err
    assert "sk-secret" not in ended.err + ended.out
    assert asked.calls == []


def test_a_judge_on_this_machine(dola_command, folder, tmp_path):
    path = tmp_path / "questions.csv"
    path.write_text(QUESTIONS, encoding="utf-8")
    ended = dola_command("eval", path, "-m", folder, "--judge", folder, "--max-new-tokens", 2, "--json")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["settings"]["judges"] == [str(folder)]


def test_a_sequential_run_is_judged_block_by_block(asked, tmp_path):
    with judge_server(says) as server:
        ended = asked(server, "--sequential", "--results", tmp_path / "run.jsonl", "--json")
    assert ended.code == 0, ended.err
    assert "read 7 different answers" in ended.out


@pytest.mark.parametrize(
    ("content", "options", "said", "hint"),
    [
        (QUESTIONS, ["--judge-url", "http://127.0.0.1:9/v1"], "--judge-url was given without --judge", "--judge NAME"),
        (QUESTIONS, ["--judge", "j", "--info-judge", "i"], "--info-judge does not apply to", "omit --info-judge"),
        ("question,answer,wrong\nq,a,b\n", ["--judge", "j"], "answers are scored and none is written", "omit --judge"),
        (QUESTIONS, ["--judge", "j", "--judge-url", "http://127.0.0.1:9/v1"], "cannot be reached", "check the address"),
        (QUESTIONS, ["--judge", "j", "--judge-url", "localhost"], "'localhost' is not a web address", "http://"),
    ],
)
def test_mistakes_are_named_before_the_model_is_loaded(dola_command, tmp_path, content, options, said, hint):
    path = tmp_path / "questions.csv"
    path.write_text(content, encoding="utf-8")
    ended = dola_command("eval", path, "-m", "nowhere/at-all", *options)
    assert ended.code == 2
    assert said in ended.err
    assert hint in ended.err
