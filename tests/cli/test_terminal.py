"""The command in a pseudo-terminal and with a closed pipe: what a person sees, and what remains afterwards."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from typing import NamedTuple

import pytest
import torch
from command import COMMAND, environment, heed_ctrl_c, tokenizer

from dola.cli.backend_torch import _streamer

SHOW, HIDE = "\x1b[?25h", "\x1b[?25l"


class Session(NamedTuple):
    """What came out of a terminal, in which pieces, and how the command ended."""

    code: int
    text: str
    pieces: list[str]


def _as_a_shell_starts_it():
    """In the child: the terminal is its own, and Ctrl-C is not ignored."""
    heed_ctrl_c()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def in_terminal(*arguments, width=80, ctrl_c_after=None, **settings):
    """Run `dola ...` with a terminal as its standard streams; press Ctrl-C when `ctrl_c_after` is on the screen."""
    main_end, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True,
        preexec_fn=_as_a_shell_starts_it, env=environment(**{"TERM": "xterm", **settings}),
    )  # fmt: skip
    os.close(terminal)
    pieces, pressed = [], False
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            piece = os.read(main_end, 4096)
        except OSError:  # how Linux says that the other end is closed
            break
        pieces.append(piece.decode(errors="replace"))
        if ctrl_c_after and not pressed and ctrl_c_after in "".join(pieces):
            os.write(main_end, b"\x03")
            pressed = True
    os.close(main_end)
    return Session(process.wait(timeout=60), "".join(pieces), pieces)


def check_sane(session):
    assert "Traceback" not in session.text
    assert session.text.count(SHOW) >= session.text.count(HIDE)
    assert session.text.rfind(SHOW) >= session.text.rfind(HIDE)
    assert session.text.endswith("\n")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"Question {number}\n" for number in range(200)))
    return path


def test_words_are_printed_when_they_are_whole(capsys):
    made = tokenizer()
    streamer = _streamer(made)
    streamer.put(torch.tensor([made("the prompt")["input_ids"]]))
    seen = []
    for token in made("Hello there my \x1b[2Jfriend")["input_ids"]:
        streamer.put(torch.tensor([token]))
        seen.append(capsys.readouterr().out)
    streamer.end()
    assert "".join(seen) + capsys.readouterr().out == "Hello there my [2Jfriend\n"
    assert sum(map(bool, seen)) >= 3


def test_the_model_is_given_the_streamer(dola_command, folder, monkeypatch):
    class Recorder(list):
        put, end = list.append, list.clear

    recorder = Recorder()
    monkeypatch.setattr(Recorder, "end", lambda self: self.append("end"))
    monkeypatch.setattr("dola.cli.backend_torch._streamer", lambda _: recorder)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert dola_command("generate", "Hi", "-m", folder, "--max-new-tokens", 5).out == ""
    assert len(recorder) == 1 + 5 + 1  # the prompt, the tokens, the end


def test_an_answer_in_a_terminal(folder, dola_command):
    options = ["generate", "Once upon a time", "-m", folder, "--max-new-tokens", 40]
    session = in_terminal(*options)
    assert session.code == 0
    check_sane(session)
    shown = session.text.partition("\r\x1b[K")[2]  # which wipes the line that says what is loaded
    assert session.text.startswith(f"Loading {folder} ...")
    text = dola_command(*options).out
    printable = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "", text)
    assert shown.replace("\r\n", "\n") == printable


def test_ctrl_c_while_tokens_stream(folder):
    session = in_terminal("generate", "Once", "-m", folder, "--max-new-tokens", 200, ctrl_c_after="\x1b[K")
    assert session.code == 130
    check_sane(session)
    assert session.text.rstrip().endswith("dola: interrupted")


def test_ctrl_c_at_the_progress_bar(folder, prompts, tmp_path):
    output = tmp_path / "answers.jsonl"
    options = ["--output", output, "--batch-size", 1, "--max-new-tokens", 100]
    session = in_terminal("generate", "--file", prompts, "-m", folder, *options, ctrl_c_after="1/200")
    assert session.code == 130
    assert HIDE in session.text
    check_sane(session)
    assert 1 <= len(output.read_text().splitlines()) < 200


@pytest.mark.parametrize("width", [40])
def test_compare_fits_the_terminal(folder, width):
    session = in_terminal("compare", "日本の首都は", "-m", folder, "--max-new-tokens", 10, width=width, NO_COLOR="1")
    assert session.code == 0
    check_sane(session)
    assert not re.search(r"\x1b\[[\d;]*3\dm", session.text.partition("penalty")[2])
    assert "tokens/s" in session.text


@pytest.mark.parametrize("settings", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "xterm-256color"}], ids=str)
def test_a_heatmap_in_a_terminal(folder, settings):
    """Digits always; a colored background if color is wanted and available."""
    session = in_terminal("trace", "The quick brown fox", "-m", folder, **settings)
    assert session.code == 0
    check_sane(session)
    coloured = re.search(r"\x1b\[[\d;]*(?:[34]8;|[34]\dm)", session.text) is not None
    assert coloured == (settings.get("TERM") == "xterm-256color")
    lines = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", session.text).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines if re.match(r" +[0-5] [ *]  ", line)]
    blocks = len(rows) // 6
    assert blocks >= 2, "wrapped by tokens"
    assert [row[0] for row in rows] == list("543210") * blocks
    assert all(re.fullmatch(r"\[?0\.\d\d\]?", cell) for row in rows for cell in row[1:] if cell != "*")
    assert "in nats (0: equal," in "\n".join(lines)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], {0, 141}), (["generate", "--file", "PROMPTS", "-m", "MODEL", "--batch-size", 1], {141})],
)
def test_a_pipe_that_closes(folder, prompts, arguments, code):
    names = {"PROMPTS": prompts, "MODEL": folder}
    command = [*COMMAND, *(str(names.get(argument, argument)) for argument in arguments)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment())
    assert process.stdout.readline()
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) in code
    assert said == b""


def test_an_error_breaks_its_lines_between_words():
    session = in_terminal("generate", "Hello", "--dtype", "float12", width=40)
    message, hint = session.text.replace("\r\n", "\n").split("\nHint: ")
    assert session.code == 2
    assert len(message.splitlines()) > 1
    assert all(len(line) <= 40 for line in message.splitlines())
    piped = subprocess.run(
        [*COMMAND, "generate", "Hello", "--dtype", "float12"], capture_output=True, text=True, env=environment()
    )
    assert piped.stderr == f"{' '.join(message.split())}\nHint: {hint}"
