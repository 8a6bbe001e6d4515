"""The command with arbitrary input: any bytes, any words, wrong types, huge prompts, Ctrl-C at any time.

What must hold: it ends with one of its own exit codes, never with a traceback, and what it has written can be read.
"""

import io
import json
import signal
import subprocess
import time

import pytest
from command import COMMAND, dola_process, environment, heed_ctrl_c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CODES = {0, 1, 2}
fuzz = settings(deadline=None, suppress_health_check=list(HealthCheck))
"""Fixtures are shared by the examples on purpose: the command must leave nothing behind."""


@pytest.fixture
def stdin(monkeypatch):
    """Put bytes on standard input, as a pipe would."""
    return lambda data: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))


def check(ended):
    assert ended.code in CODES
    assert "Traceback" not in ended.err
    if ended.code == 2:
        assert ended.err.startswith("dola: ")
        assert "\nHint: " in ended.err
        assert ended.out == ""


@given(st.binary(max_size=60))
@settings(fuzz, max_examples=15)
def test_any_bytes_on_standard_input(dola_command, folder, stdin, data):
    stdin(data)
    ended = dola_command("generate", "-", "-m", folder, "--max-new-tokens", 2)
    check(ended)
    try:
        text = "" if b"\0" in data else data.decode()  # with zero bytes it is taken for UTF-16
    except UnicodeDecodeError:
        text = ""
    assert (ended.code == 0) == bool(text.strip() and len(text) < 200)


@given(st.text(max_size=40))
@settings(fuzz, max_examples=15)
def test_any_text_as_a_prompt_gives_json(dola_command, folder, text):
    ended = dola_command("generate", "-m", folder, "--max-new-tokens", 2, "--json", "--", text)
    check(ended)
    if ended.code == 0:
        assert json.loads(ended.out)["prompt"] == text


@given(st.lists(st.binary(max_size=30), max_size=4))
@settings(fuzz, max_examples=15)
@pytest.mark.parametrize("suffix", ["txt", "jsonl"])
def test_any_bytes_in_a_file_of_prompts(dola_command, folder, tmp_path, suffix, lines):
    path = tmp_path / f"prompts.{suffix}"
    path.write_bytes(b"\n".join(lines))
    check(dola_command("generate", "--file", path, "-m", folder, "--max-new-tokens", 1))


@given(st.binary(max_size=40) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists).map(
    lambda made: json.dumps({"layers": made, "max-new-tokens": made}).encode()))  # fmt: skip
@settings(fuzz, max_examples=40)
def test_any_bytes_in_a_config(dola_command, tmp_path, data):
    path = tmp_path / "config.json"
    path.write_bytes(data)
    check(dola_command("generate", "Hi", "-m", "nosuch", "--config", path))


OPTIONS = ["--layers", "--max-new-tokens", "--relative-top", "--dtype", "--device", "--seed", "--top-p", "--file", "--output",
           "--batch-size", "--repetition-penalty", "--json", "--sample", "--reference", "-m", "--config"]  # fmt: skip
values = st.sampled_from(
    ["", "-1", "0", "nan", "inf", "1e999", "99999999999999999999", "high", "2,2", "/", ".", "é", "\x00x", "--"]
)
words = st.lists(st.sampled_from(OPTIONS) | values | st.text(max_size=6), max_size=6)


@given(st.sampled_from(["generate", "compare", "doctor", "models", "trace", "bench", "tune", "eval"]), words)
@settings(fuzz, max_examples=60)
def test_any_words_on_the_command_line(dola_command, monkeypatch, tmp_path, verb, arguments):
    """No model is loaded: these end before it, or at its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path / "none"))
    monkeypatch.setattr("dola.loading.embedded.subprocess.run", _no_network)
    ended = dola_command(verb, *arguments)
    assert ended.code in CODES
    assert "Traceback" not in ended.err


def _no_network(*_, **__):
    return subprocess.CompletedProcess([], 1, stdout="", stderr="ERROR: no network\n")


def test_a_huge_prompt_is_refused_with_a_message(dola_command, folder, stdin):
    stdin(b"word " * 400_000)
    ended = dola_command("generate", "-", "-m", folder)
    check(ended)
    assert "together the model allows 256" in ended.err


@pytest.mark.parametrize("seconds", [0.05, 2.0, 5.0])
def test_ctrl_c_at_any_time(folder, tmp_path, seconds):
    """Ctrl-C while Python starts, torch loads, the model loads, or tokens arrive: complete lines, and the run resumes."""
    prompts, output = tmp_path / "prompts.txt", tmp_path / "answers.jsonl"
    prompts.write_text("".join(f"Question {number}\n" for number in range(300)))
    options = ["generate", "--file", prompts, "-m", folder, "--output", output, "--batch-size", 4, "--max-new-tokens", 30]
    command = [*COMMAND, *map(str, options)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
        preexec_fn=heed_ctrl_c,
    )  # fmt: skip
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, 130, -signal.SIGINT)
    if seconds > 0.5:  # before, Python itself is not up yet
        assert "Traceback" not in err
    assert out == ""
    if output.exists():
        lines = output.read_text().splitlines()
        assert all(json.loads(line)["schema"] for line in lines)
    prompts.write_text("".join(f"Question {number}\n" for number in range(len(lines) + 2 if output.exists() else 2)))
    ended = dola_process(*options)
    assert ended.returncode == 0, ended.stderr
