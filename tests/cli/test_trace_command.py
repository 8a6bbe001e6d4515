"""`dola trace`: every option, what it prints and writes, saved traces, and mistakes."""

import json
import re
from importlib.util import find_spec

import pytest
from command import fields

import dola
from dola import LayerTrace
from dola.cli.trace import SCHEMA, SCHEMA_NAME

PROMPT = "The quick brown fox"


@pytest.fixture
def traced(dola_command, folder):
    """The traces that `dola trace --json` prints with some options."""

    def run(*arguments):
        ended = dola_command("trace", PROMPT, "--model", folder, "--json", *arguments)
        assert (ended.code, ended.err) == (0, "")
        return [LayerTrace.from_json(line) for line in ended.out.splitlines()]

    return run


def test_a_prompts_own_tokens(dola_command, folder):
    ended = dola_command("trace", PROMPT, "-m", folder, "--json")
    found = json.loads(ended.out)
    assert found["schema"] == SCHEMA_NAME
    named = {re.sub(r"^texts\..*", "texts", field) for field in fields(found)}
    assert named == set(SCHEMA) - {"settings.repetition_penalty"}
    model, tokenizer = dola.load(str(folder))
    expected = dola.trace(model, tokenizer, PROMPT)
    assert LayerTrace.from_json(ended.out).tokens == expected.tokens
    assert found["model"] == str(folder)


def test_generated_tokens_are_those_of_generate(traced, dola_command, folder):
    (trace,) = traced("--generate", 6)
    settings = ["-m", folder, "--max-new-tokens", 6, "--json"]
    made = json.loads(dola_command("generate", PROMPT, *settings).out)
    assert [token.token for token in trace.tokens] == made["token_ids"]
    assert trace.prompt_tokens == made["prompt_tokens"]
    assert trace.settings["repetition_penalty"] == 1.2
    assert "<user>" in trace.prompt


def test_greedy_beside_dola(traced, dola_command, folder):
    greedy, ours = traced("--generate", 6, "--greedy")
    assert (greedy.mode, ours.mode) == ("greedy", "dola")
    plain = dola_command("generate", PROMPT, "-m", folder, "--max-new-tokens", 6, "--json", "--layers", "off")
    assert [token.token for token in greedy.tokens] == json.loads(plain.out)["token_ids"]


@pytest.mark.parametrize(
    ("options", "field", "value"),
    [
        (["--layers", "3,4"], "layers", (3, 4)),
        (["--relative-top", "0.3"], "relative_top", 0.3),
        (["--divergence", "reference"], "divergence", "reference"),
        (["--final-norm"], "final_norm", True),
        (["--no-final-norm"], "final_norm", False),
        (["--reference"], "divergence", "reference"),
        (["--generate", 2, "--repetition-penalty", "1.3"], "repetition_penalty", 1.3),
        (["--dtype", "bfloat16", "--device", "cpu", "--trust-remote-code"], "layers", "high"),
    ],
)
def test_options(traced, options, field, value):
    assert traced(*options)[0].settings[field] == value


def test_top_k_and_chat(traced):
    (trace,) = traced("--top-k", 3, "--chat")
    assert {len(layer) for layer in trace.tokens[0].top} == {3}
    assert trace.prompt.startswith("<user>")
    (plain,) = traced("--no-chat", "--generate", 2)
    assert plain.prompt == PROMPT


def test_a_config_file(traced, tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"layers": [2, 3], "top-k": 2}')
    (trace,) = traced("--config", path)
    assert trace.candidates == (2, 3)
    assert len(trace.tokens[0].top[0]) == 2


def test_on_a_terminal(dola_command, folder):
    ended = dola_command("trace", PROMPT, "-m", folder)
    assert (ended.code, ended.err) == (0, "")
    assert re.search(r"^ +5 \* +.*\[0\.\d\d\]|^ +3 \* +.*\[0\.\d\d\]", ended.out, re.MULTILINE)
    assert max(map(len, ended.out.splitlines())) <= 80


def test_saved_traces_are_shown_again(dola_command, folder, tmp_path):
    saved = dola_command("trace", PROMPT, "-m", folder, "--generate", 3, "--greedy", "--json").out
    path, page = tmp_path / "trace.json", tmp_path / "page.html"
    path.write_text(saved)
    assert dola_command("trace", "--open", path, "--json").out == saved
    ended = dola_command("trace", "--open", path, "--open", path, "--html", page)
    assert (ended.code, ended.out, ended.err) == (0, "", "")
    data = re.search(r'id="data">(.*?)</script>', page.read_text(), re.DOTALL)[1]
    assert [trace["mode"] for trace in json.loads(data)["traces"]] == ["greedy", "dola"] * 2
    assert "tokens of greedy decoding" in dola_command("trace", "--open", path).out


def test_a_token_that_breaks_lines_is_read_again(dola_command, folder, tmp_path):
    saved = json.loads(dola_command("trace", PROMPT, "-m", folder, "--json").out)
    name = next(iter(saved["texts"]))
    saved["texts"][name] = "\u2028\x85\x0b"
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(saved, ensure_ascii=False))
    assert dola_command("trace", "--open", path, "--json").code == 0


def test_a_figure(dola_command, folder, tmp_path):
    pytest.importorskip("matplotlib")
    assert dola_command("trace", PROMPT, "-m", folder, "--png", tmp_path / "a.png").code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


FILES = {
    "empty.json": "",
    "cut.json": '{"schema": "dola.trace/1", "dola',
    "two.json": '{"schema": "dola.trace/2", "dola": "9"}',
}


@pytest.mark.parametrize(
    ("arguments", "words", "hint"),
    [
        (["Hi", "--open", "two.json"], "A prompt and --open exclude each other.", "give one"),
        (["Hi", "--greedy"], "--greedy needs --generate: it applies to generated tokens", "--generate 20"),
        (["Hi", "--layers", "off"], "--layers off leaves nothing to trace.", "--layers high"),
        (["Hi", "--html", "no/a.html"], "--html no/a.html: the folder 'no' does not exist.", "mkdir -p no"),
        (["Hi", "--html", "."], "--html . is a folder.", "--html trace.html"),
        (["Hi", "--generate", "0"], "--generate 0 is out of range; allowed is 1 or more.", "leave"),
        (["Hi", "--top-k", "0"], "--top-k 0 is out of range; allowed is 1 or more.", "leave"),
        (["--open", "nosuch.json"], "--open 'nosuch.json': No such file or directory.", "check the path"),
        (["--open", "empty.json"], "--open 'empty.json' is empty.", "--json"),
        (["--open", "cut.json"], "--open 'cut.json', line 1: This is not a whole JSON object", "--json"),
        (
            ["--open", "two.json"],
            "'two.json', line 1: This trace has schema 'dola.trace/2', written by dola 9;",
            "trace the text",
        ),
        (["--open", "latin.json"], "--open 'latin.json' is not valid UTF-8", "iconv"),
        (["Hi", "-m", "MODEL", "--layers", "6"], "layer 6 in --layers 6 is the last (mature) layer", "--layers"),
        (["word " * 300, "-m", "MODEL"], "tokens; the model allows 256.", "shorten the prompt by"),
        (["Hi", "-m", "MODEL", "--generate", "999"], "--generate is 999; together the model allows 256", "--generate \\d+"),
    ],
)
def test_mistakes(dola_command, folder, tmp_path, monkeypatch, arguments, words, hint):
    monkeypatch.chdir(tmp_path)
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "latin.json").write_bytes(b"caf\xe9")
    ended = dola_command("trace", *(folder if argument == "MODEL" else argument for argument in arguments))
    assert (ended.code, ended.out) == (2, "")
    assert words in " ".join(ended.err.split())
    assert re.search(f"Hint: .*({hint})", ended.err)


def test_a_figure_of_no_known_format(dola_command, monkeypatch):
    monkeypatch.setattr("dola.bench.chart.find_spec", lambda name: name)
    ended = dola_command("trace", "Hi", "--png", "a.doc")
    assert ended.code == 2
    assert "--png a.doc: the file must end in .png, .svg, .pdf." in ended.err


def test_help_and_saved_traces_need_no_torch(dola_command, folder, tmp_path):
    import subprocess
    import sys

    from command import environment

    path = tmp_path / "trace.json"
    path.write_text(dola_command("trace", PROMPT, "-m", folder, "--json").out)
    code = "import atexit, sys; atexit.register(lambda: print('torch' in sys.modules, file=sys.stderr)); "
    command = [sys.executable, "-c", code + "from dola.cli import main; main()", "trace"]
    for arguments in (["--help"], ["--open", path], ["--open", path, "--html", tmp_path / "a.html"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, env=environment())
        assert (done.returncode, done.stderr) == (0, "False\n")


def test_another_method(dola_command, folder, toy):
    done = dola_command("trace", "abc", "-m", folder, "--json", "--method", "toy", "--set", "rate=0.9")
    assert (done.code, done.err) == (0, "")
    assert json.loads(done.out)["settings"] == {"method": "toy", "layers": "last:3", "rate": 0.9}


@pytest.mark.skipif(find_spec("mlx") is not None, reason="MLX is installed: tests/apple run it")
def test_the_other_backend_is_refused_where_it_is_not_installed(dola_command, folder):
    same = ("trace", "The cat", "-m", folder)
    ended = dola_command(*same, "--backend", "mlx")
    assert (ended.code, ended.out) == (2, "")
    assert "needs mlx and mlx-lm" in ended.err
    assert "pip install" in ended.err.partition("Hint: ")[2]
    assert "'torch', 'mlx'" in dola_command(*same, "--backend", "jax").err
