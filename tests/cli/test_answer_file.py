"""`dola generate --output`: an interrupted run resumes where it ended, and other files are never changed."""

import json

import pytest

from dola.cli.prompts import Prompt, read_prompts


@pytest.fixture
def answer(dola_command, folder, tmp_path):
    """Answer five prompts into a file, and return its lines."""
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "answers.jsonl"
    texts = ["One", "Two", "Three", "Four", "Five"]
    prompts.write_text("".join(json.dumps({"prompt": text, "id": n}) + "\n" for n, text in enumerate(texts)))

    def run(*arguments, expect=0):
        settings = ["--file", prompts, "--output", output, "--max-new-tokens", 4, "--batch-size", 2]
        ended = dola_command("generate", "-m", folder, *settings, *arguments)
        assert ended.code == expect
        return ended.err if expect else output.read_bytes().splitlines(keepends=True)

    run.prompts, run.output = prompts, output
    return run


def texts(lines):
    return [(record["index"], record["token_ids"], record["fields"]) for record in map(json.loads, lines)]


@pytest.mark.parametrize("kept", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("half", [b"", b"{", b'{"schema": "dola.generate/1", "do', "WHOLE LINE WITHOUT ITS END"])
@pytest.mark.parametrize("how", [[], ["--sample", "--seed", 3]])
def test_an_interrupted_run_resumes(answer, kept, half, how):
    whole = answer(*how)
    half = whole[kept].rstrip(b"\n") if isinstance(half, str) else half
    answer.output.write_bytes(b"".join(whole[:kept]) + half)
    again = answer(*how)
    assert again[:kept] == whole[:kept]
    assert texts(again) == texts(whole)


def test_a_finished_run_decodes_nothing(answer, monkeypatch):
    whole = answer()
    monkeypatch.setattr("dola.cli.backend_torch.decode", None)
    assert answer() == whole


def test_a_run_that_is_killed_between_batches_keeps_what_it_had(answer, monkeypatch):
    whole = answer()
    answer.output.unlink()
    from dola.cli import backend_torch

    decode, calls = backend_torch.decode, []

    def interrupted(*arguments, **settings):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return decode(*arguments, **settings)

    monkeypatch.setattr(backend_torch, "decode", interrupted)
    answer(expect=130)
    assert texts(answer.output.read_bytes().splitlines()) == texts(whole[:2])
    monkeypatch.setattr(backend_torch, "decode", decode)
    assert texts(answer()) == texts(whole)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        (["--layers", "low"], 'layers = "high", not "low"'),
        (["--repetition-penalty", "1.3"], "repetition_penalty = 1.2, not 1.3"),
        (["--no-chat"], "chat = true, not false"),
        (["--batch-size", "3"], "batch_size = 2, not 3"),
        (["--sample", "--seed", "5"], "sample = false, not true"),
    ],
)
def test_other_settings_are_refused(answer, changed, words):
    whole = b"".join(answer())
    said = answer(*changed, expect=2)
    assert words in said
    assert "nothing was changed" in said
    assert answer.output.read_bytes() == whole


def test_another_seed_is_refused_and_none_takes_up_the_first(answer):
    first = answer("--sample", "--seed", 4)
    answer.output.write_bytes(first[0])
    assert "seed = 4, not 5" in answer("--sample", "--seed", 5, expect=2)
    assert texts(answer("--sample")) == texts(first)


def test_other_prompts_are_refused(answer):
    answer()
    answer.prompts.write_text('{"prompt": "One", "id": 0}\n{"prompt": "Other", "id": 1}\n')
    assert "its answer 1 belongs to another prompt: 'Two'" in answer(expect=2)
    answer.prompts.write_text('{"prompt": "One", "id": 99}\n')
    assert "its answer 0 belongs to another prompt" in answer(expect=2)


def test_another_model_is_refused(answer, base_folder):
    answer()
    assert "it was made with --model" in answer("-m", base_folder, "--batch-size", 1, expect=2)


def test_a_damaged_line_in_the_middle_is_refused(answer):
    whole = answer()
    answer.output.write_bytes(whole[0] + whole[1][:40] + b"\n" + whole[2])
    assert "its line 2 was not written by this command" in answer(expect=2)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"schema": "dola.generate/2", "dola": "9.0"}, "its line 1 has schema 'dola.generate/2', written by dola 9.0"),
        ({"schema": "dola.trace/1"}, "its line 1 was not written by this command"),
        ({"index": -1}, "its line 1 was not written by this command"),
        ({"index": True}, "its line 1 was not written by this command"),
        ({"settings": None}, "its line 1 was not written by this command"),
        ({"settings": {"seed": "x"}}, "its line 1 was not written by this command"),
        ({"fields": [1]}, "its line 1 was not written by this command"),
        ({"prompt": None}, "its line 1 was not written by this command"),
        ({"settings": {}}, "it was made with layers = null"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("how", [[], ["--sample"]])
def test_a_file_of_another_version_or_changed_by_hand(answer, changed, words, how):
    first, *rest = answer()
    answer.output.write_bytes(json.dumps({**json.loads(first), **changed}).encode() + b"\n" + b"".join(rest))
    before = answer.output.read_bytes()
    assert words in answer(*how, expect=2)
    assert answer.output.read_bytes() == before


def test_a_device_is_written_too(dola_command, folder):
    assert dola_command("generate", "Hi", "-m", folder, "--max-new-tokens", 2, "--output", "/dev/null").code == 0


def test_a_folder_that_cannot_be_written_is_found_out_before_decoding(dola_command, tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    ended = dola_command("generate", "Hi", "--output", tmp_path / "new.jsonl")
    assert (ended.code, "Permission denied" in ended.err) == (2, True)


@pytest.mark.parametrize("name", ["prompts.JSONL", "prompts.ndjson"])
def test_json_lines_by_other_names_and_with_a_mark(tmp_path, name):
    """The byte order mark that Windows editors write first does not become part of the first prompt."""
    (tmp_path / name).write_text('{"prompt": "One", "id": 1}', encoding="utf-8-sig")
    assert read_prompts(None, tmp_path / name) == [Prompt("One", {"id": 1})]
    (tmp_path / "prompts.txt").write_text("One", encoding="utf-8-sig")
    assert read_prompts(None, tmp_path / "prompts.txt") == [Prompt("One")]
