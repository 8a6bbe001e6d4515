"""A user's mistakes and the messages that answer them: what, got, allowed, and a hint. Exit code 2, nothing on stdout."""

import io
import json
import re
import shlex
import signal
import subprocess

import pytest
from command import COMMAND, environment, save
from odd_tokenizers import lossy_tokenizer

import dola
from dola.cli.decoding import encode
from dola.cli.endings import as_flags, importing
from dola.cli.output import stderr, stdout

FILES = {
    "list.json": "[1]",
    "broken.json": "{",
    "unknown.json": '{"max_tokens": 3}',
    "no-chat.json": '{"no-chat": true}',
    "null.json": '{"layers": null}',
    "twice.json": '{"layers": "high", "layers": "low"}',
    "deep.json": "[" * 200_000,
    "zero.json": '{"output": "a\\u0000b"}',
    "half.json": '{"model": "\\ud800"}',
    "wide.json": '{"layers": "low"}'.encode("utf-16"),
    "flag.json": '{"chat": 1}',
    "true.json": '{"max-new-tokens": true}',
    "word.json": '{"max-new-tokens": "x"}',
    "range.json": '{"max-new-tokens": 0}',
    "empty.txt": "\n\n",
    "latin.txt": b"caf\xe9",
    "broken.jsonl": '{"prompt": "a"}\nnot json',
    "noprompt.jsonl": '{"prompt": 3}',
    "blank.jsonl": '{"prompt": " "}',
    "field.jsonl": '{"prompt": "a", "note": ["\\ud800"]}',
    "surrogate.jsonl": '{"prompt": "\\ud800"}',
    "mine.txt": "precious\n",
    "half.txt": "precious",
    "other.jsonl": '{"schema": "dola.generate/1", "index": "0"}\n',
}
MODEL = ["-m", "MODEL"]
MISTAKES = [
    # arguments, words of the message, words of the hint
    (["nosuch"], "No such command 'nosuch'. Available: generate, compare, ", "dola --help"),
    (["generate", "Hi", "--lyers", "low"], "No such option: --lyers", "dola generate --help"),
    (["generate", "Hi", "there"], "unexpected extra argument(s) (there)", "dola generate --help"),
    (["generate", "Hi", "--top-p"], "Option '--top-p' requires an argument.", "dola generate --help"),
    (["generate", "Hi", "--max-new-tokens", "x"], "'--max-new-tokens'", "dola generate --help"),
    (["generate", "Hi", "--seed=1.5"], "'1.5'", "dola generate --help"),
    (["generate", "Hi", "--dtype", "f32"], "'f32' is not one of 'float32', 'bfloat16', 'float16'.", "dola generate --help"),
    (["compare", "Hi", "--divergence", "kl"], "'kl' is not one of 'jsd', 'reference'.", "dola compare --help"),
    (["generate", "Hi", "--max-new-tokens", "0"], "--max-new-tokens 0 is out of range; allowed is 1 or more.", "leave"),
    (["generate", "Hi", "--repetition-penalty", "-1"], "--repetition-penalty -1.0 is out of range; allowed is 0.01", "leave"),
    (["generate", "Hi", "--relative-top", "1.5"], "--relative-top 1.5 is out of range; allowed is 0 to 1.", "leave"),
    (["generate", "Hi", "--sample", "--temperature", "inf"], "--temperature inf is out of range; allowed is 0.01", "leave"),
    (["generate", "Hi", "--sample", "--top-p", "nan"], "--top-p nan is out of range; allowed is 0 to 1.", "leave"),
    (["generate", "Hi", "--sample", "--seed", "-1"], "--seed -1 is out of range", "leave"),
    (["generate", "--file", "latin.txt", "--batch-size", "0"], "--batch-size 0 is out of range", "leave"),
    (["generate", "Hi", "--temperature", "2"], "--temperature is for sampling", "add --sample"),
    (["generate", "Hi", "--seed", "1", "--top-p", "1"], "--top-p and --seed are for sampling", "add --sample"),
    (["generate", "Hi", "--layers", "off", "--reference"], "--reference cannot be used with --layers off", "--layers high"),
    (["generate", "Hi", "--layers", "off", "--no-final-norm"], "--no-final-norm cannot be used with --layers off", "leave it"),
    (["generate", "Hi", "--reference", "--divergence", "jsd"], "--divergence was given too.", "--reference alone"),
    (["compare", "Hi", "--reference", "--final-norm"], "--final-norm was given too.", "--reference alone"),
    (["generate", "Hi", "--layers", "hihg"], "--layers 'hihg' is not known; allowed are high, low, all, off", "--layers 24,28"),
    (["generate", "Hi", "--layers", ""], "--layers '' is not known", "--layers high"),
    (["generate", "Hi", "--layers", "3,3"], "layer 3 is listed twice in --layers 3,3", "write --layers 3"),
    (
        ["generate", "Hi", *MODEL, "--layers", "99"],
        "layer 99 in --layers 99 does not exist; allowed are 0 to 5",
        "--layers high",
    ),
    (["generate", "Hi", *MODEL, "--layers", "99", "--output", "new.jsonl"], "layer 99 in --layers 99", "--layers high"),
    (["generate", "Hi", "--output", "mine.txt/x.jsonl"], "--output 'mine.txt/x.jsonl': Not a directory.", "check the path"),
    (
        ["compare", "Hi", *MODEL, "--layers", "low", "--layers", "6"],
        "layer 6 in --layers 6 is the last (mature) layer",
        "--layers",
    ),
    (["compare", "Hi", "--layers", "off"], "--layers off does not make a column", "omit it"),
    (["generate", "Hi", *MODEL, "--device", "gpu"], "No device 'gpu' on this machine. Available:", "--device cpu"),
    (["generate", "Hi", *MODEL, "--device", "cuda:99"], "No device 'cuda:99' on this machine", "omit --device"),
    (["generate", "Hi", "-m", "smolm"], "'smolm' is neither a folder nor an embedded model", "check the spelling"),
    (["generate", "Hi", "-m", "./nosuch"], "The folder './nosuch' does not exist", "check the path"),
    (["generate", ""], "The prompt is empty.", "give one"),
    (["compare", "  "], "The prompt is empty.", "give one"),
    (["generate", "caf\udce9"], "The prompt is not valid UTF-8.", "iconv"),
    (["generate", "Hi", "--file", "mine.txt"], "A prompt and --file exclude each other.", "give one of them"),
    (["generate", "--file", "nosuch.txt"], "--file 'nosuch.txt': No such file or directory.", "check the path"),
    (["generate", "--file", "."], "--file '.': Is a directory.", "check the path"),
    (["generate", "--file", "empty.txt"], "--file 'empty.txt' does not contain a prompt.", "one prompt on each line"),
    (["generate", "--file", "latin.txt"], "--file 'latin.txt' is not valid UTF-8", "iconv"),
    (["generate", "--file", "broken.jsonl"], "--file 'broken.jsonl', line 2 is not JSON", '{"prompt": '),
    (["generate", "--file", "noprompt.jsonl"], "line 1 has a 'prompt' that is not a string but the number 3", '{"prompt": '),
    (["generate", "--file", "blank.jsonl"], "line 1 has a prompt that is empty or cannot be encoded", '{"prompt": '),
    (["generate", "--file", "surrogate.jsonl"], "line 1 has a prompt that is empty or cannot be encoded", '{"prompt": '),
    (["generate", "--file", "field.jsonl"], "line 1 has a field that cannot be encoded", '{"prompt": '),
    (["generate", "Hi", "--batch-size", "2"], "--batch-size needs --file: it sets how many prompts", "omit --batch-size"),
    (["generate", "Hi", "--json", "--output", "x.jsonl"], "exclude each other", "give one of them"),
    (["generate", "Hi", "--output", "nosuch/x.jsonl"], "--output 'nosuch/x.jsonl': No such file or directory.", "check"),
    (["generate", "Hi", "--output", "mine.txt"], "'mine.txt' exists, but its line 1 was not written by", "nothing was changed"),
    (["generate", "Hi", "--output", "half.txt"], "'half.txt' exists, but it was not written by", "nothing was changed"),
    (["generate", "Hi", "--output", "other.jsonl"], "its line 1 was not written by", "nothing was changed"),
    (["generate", "Hi", "--config", "nosuch.json"], "--config 'nosuch.json': No such file", "check the path"),
    (["generate", "Hi", "--config", "list.json"], "holds a list, not a JSON object", '{"layers": "high"'),
    (["generate", "Hi", "--config", "broken.json"], "--config 'broken.json' is not JSON", '{"layers": "high"'),
    (["generate", "Hi", "--config", "latin.txt"], "--config 'latin.txt' is not valid UTF-8", "iconv"),
    (["generate", "Hi", "--config", "unknown.json"], "'max_tokens' is not an option of this command. Options: file,", "names"),
    (["generate", "Hi", "--config", "no-chat.json"], "'no-chat' is not an option", '"chat": false'),
    (["generate", "Hi", "--config", "null.json"], "'layers' is null. Allowed: a word or a number.", "as for --layers"),
    (["generate", "Hi", "--config", "twice.json"], "the field 'layers' is listed twice", '{"layers": "high"'),
    (["generate", "Hi", "--config", "deep.json"], "nested too deeply", '{"layers": "high"'),
    (
        ["generate", "Hi", "--config", "zero.json"],
        "a character that is not allowed in an option",
        "give --output on the command line",
    ),
    (
        ["generate", "Hi", "--config", "half.json"],
        "a character that is not allowed in an option",
        "give --model on the command line",
    ),
    (["generate", "Hi", "--config", "wide.json"], "--config 'wide.json' is UTF-16, not UTF-8", "iconv -f utf-16"),
    (["generate", "Hi", "--config", "flag.json"], "'chat' is 1. Allowed: true and false.", '"chat": true'),
    (["generate", "Hi", "--config", "true.json"], "'max-new-tokens' is true. Allowed: a word", "as for --max-new-tokens"),
    (["generate", "Hi", "--config", "range.json"], "--max-new-tokens 0 is out of range", "leave"),
    (["generate", "Hi", "--config", "word.json"], "not 'x'; it comes from --config 'word.json'.", "dola generate --help"),
    (["generate", "Hi", "--config", "word.json", "--max-new-tokens", "y"], ", not 'y'.", "dola generate --help"),
    (["generate", "Hi", "--sample", "--seed", "1", "--seed", "x"], "'x'", "dola generate --help"),
    (["generate", "Hi", "--sample", "--top-p", "0.5", "--top-p=q"], "'q'", "dola generate --help"),
    (["doctor", "-m", "smollm2"], "No such option: -m", "MODEL needs no flag here: dola doctor smollm2"),
    (["generate", "Hi", "-m", "REFUSES"], "The model's chat template fails: no such message.", "--no-chat"),
    (
        ["generate", "Hi", "-m", "BROKEN"],
        "The model's chat template or tokenizer fails: TypeError: unsupported operand",
        "--no-chat",
    ),
    (["generate", "Hi", *MODEL, "--max-new-tokens", "999"], "is 999; together the model allows 256.", "--max-"),
    (["compare", "word " * 300, *MODEL], "together the model allows 256.", "shorten the prompt by"),
    (["generate", "Hi", "-m", "BASE", "--chat"], "this model has no chat template.", "omit --chat"),
]


@pytest.fixture(scope="session")
def refusing_folder(tmp_path_factory):
    """A tiny model whose chat template takes no message."""
    return save(tmp_path_factory.mktemp("refuses"), template="{{ raise_exception('no such message') }}")


@pytest.fixture(scope="session")
def broken_folder(tmp_path_factory):
    """A tiny model whose chat template adds a string to a number: a TypeError, not an error of jinja."""
    return save(tmp_path_factory.mktemp("broken"), template="{{ 1 + 'word' }}")


@pytest.mark.parametrize(("arguments", "what", "hint"), MISTAKES, ids=lambda value: None)
def test_mistake(
    dola_command, folder, base_folder, refusing_folder, broken_folder, tmp_path, monkeypatch, arguments, what, hint
):
    monkeypatch.chdir(tmp_path)
    for name, content in FILES.items():
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    names = {"MODEL": str(folder), "BASE": str(base_folder), "REFUSES": str(refusing_folder), "BROKEN": str(broken_folder)}
    ended = dola_command(*(names.get(argument, argument) for argument in arguments))
    assert ended.code == 2
    assert ended.out == ""
    message, _, advice = ended.err.removeprefix("dola: ").rstrip("\n").partition("\nHint: ")
    assert ended.err.startswith("dola: ")
    assert not (tmp_path / "new.jsonl").exists()
    assert what in message
    assert hint in advice
    assert not re.search(r"\w=\[|relative_top=|layers=", ended.err), "words of the library, not of the command line"
    for name, content in FILES.items():
        assert (tmp_path / name).read_bytes() == (content if isinstance(content, bytes) else content.encode())


def test_there_are_more_than_twenty_kinds():
    assert len(MISTAKES) > 20


def test_no_prompt_at_a_terminal(dola_command, monkeypatch):
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    ended = dola_command("generate")
    assert (ended.code, ended.err.splitlines()[0]) == (2, "dola: No prompt was given.")
    assert "--file FILE" in ended.err
    ended = dola_command("compare")
    assert "Hint: dola compare " in ended.err
    assert "--file" not in ended.err  # it has none


def test_standard_input_that_is_not_text(dola_command, monkeypatch):
    def fail():
        raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")

    monkeypatch.setattr("sys.stdin.read", fail, raising=False)
    assert "not valid UTF-8" in dola_command("generate", "-").err


@pytest.mark.parametrize("data", [b"\xef\xbb\xbfHi there", b"Hi there\r\n", b"Hi there\n"])
def test_standard_input_is_read_as_a_file_is(dola_command, folder, monkeypatch, data):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", newline="\n"))
    ended = dola_command("generate", "-m", folder, "--max-new-tokens", 2, "--json")
    assert json.loads(ended.out)["prompt"] == "Hi there"


@pytest.mark.parametrize(("data", "words"), [(b"H\0i\0", "it is UTF-16, or not text"), (b"caf\xe9", "is not valid UTF-8")])
def test_standard_input_that_is_not_utf_8(dola_command, monkeypatch, data, words):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
    ended = dola_command("generate")
    assert (ended.code, ended.out) == (2, "")
    assert words in ended.err
    assert "Hint: convert it, for instance with iconv -f " in ended.err


def test_standard_input_that_is_closed(dola_command, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    for arguments in (["generate"], ["generate", "-"], ["trace"]):
        ended = dola_command(*arguments)
        assert (ended.code, ended.err.splitlines()[0]) == (2, "dola: No prompt was given.")


def test_standard_output_that_is_closed(folder, tmp_path):
    """After `>&-` Python has no stdout, and printing fails. `--output` still works."""
    command = [*COMMAND, "generate", "Hi", "-m", str(folder), "--max-new-tokens", "2", "--output", str(tmp_path / "a.jsonl")]
    script = f"{shlex.join(command)} >&-"
    done = subprocess.run(["sh", "-c", script], env=environment(), stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads((tmp_path / "a.jsonl").read_text())["prompt"] == "Hi"


def test_a_prompt_without_tokens(base_folder):
    """Some tokenizers drop what they do not know."""
    model, _ = dola.load(str(base_folder))
    for prompts in (["x"], ["1 2", "x"]):
        with pytest.raises(dola.errors.InputError, match="no tokens"):
            encode(model, lossy_tokenizer(), prompts, chat=False)


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device", "/tmp/x"), 2, "dola: '/tmp/x': No space left on device.\nHint: check"),
        (OSError("odd"), 2, "dola: odd.\nHint: check"),
        (MemoryError(), 1, "dola: out of memory: MemoryError\nHint: use a smaller model"),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore"),
            1,
            "dola: out of memory: CUDA out of memory. Tried",
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), 1, "dola: out of memory: "),
        (KeyboardInterrupt(), 130, "\ndola: interrupted\n"),
    ],
)
def test_failures_during_a_run(dola_command, folder, monkeypatch, error, code, words):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dola.cli.backend_torch.decode", fail)
    ended = dola_command("generate", "Hi", "-m", folder)
    assert ended.code == code
    assert ended.err.startswith(words)
    assert ended.out == ""


def test_a_defect_of_ours_shows_its_traceback(dola_command, folder, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("a defect")

    monkeypatch.setattr("dola.cli.backend_torch.decode", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        dola_command("generate", "Hi", "-m", folder)


@pytest.mark.parametrize(
    ("library", "flags"),
    [
        ("use dtype='float32' or dtype=\"bfloat16\"", "use --dtype float32 or --dtype bfloat16"),
        ("device_map='cuda:9', device=cpu", "--device cuda:9, --device cpu"),
        ("new_tokens=0 and repetition_penalty=-1.5", "--new-tokens 0 and --repetition-penalty -1.5"),
        ("layers=[24, 28]", "--layers 24,28"),
        ("use_cache=True, torch_dtype='x'", "use_cache=True, torch_dtype='x'"),
    ],
)
def test_arguments_of_the_library_as_flags(library, flags):
    assert as_flags(library) == flags


@pytest.mark.parametrize("error", [dola.errors.InputError, dola.errors.MissingExtraError])
def test_errors_of_the_library_name_flags(dola_command, monkeypatch, error):
    def fail(*_, **__):
        raise error("dtype='x' is none", hint="use dtype='float32'")

    monkeypatch.setattr("dola.cli.options.load_model", fail)
    assert dola_command("generate", "Hi").err == "dola: --dtype x is none\nHint: use --dtype float32\n"


@pytest.mark.parametrize("console", [stdout, stderr])
def test_a_pipe_that_closes_under_rich(dola_command, folder, monkeypatch, console):
    """rich itself would exit with 1."""

    class Closed(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    def printing(*_, **__):
        made = console()
        made.file = Closed()
        made.print("x")

    monkeypatch.setattr("dola.cli.endings._write_no_more", lambda: None)  # or the test's own stdout is gone
    monkeypatch.setattr("dola.cli.options.load_model", printing)
    assert dola_command("generate", "Hi").code == 141


@pytest.fixture
def _ctrl_c_raises():
    """SIGINT as Python sets it up; tests that run in the background (`make test &`) are started with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c_raises")
def test_ctrl_c_while_libraries_are_imported_ends_the_process(monkeypatch):
    """Not by an exception: C code that imports may lose it."""
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    monkeypatch.setattr("os.write", lambda *written: ended.append(written))
    before = signal.getsignal(signal.SIGINT)
    with importing():
        signal.raise_signal(signal.SIGINT)
    assert ended == [(2, b"\ndola: interrupted\n"), 130]
    assert signal.getsignal(signal.SIGINT) is before
    monkeypatch.setattr("signal.getsignal", lambda _: signal.SIG_IGN)
    with importing(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)  # the handler is as it was
