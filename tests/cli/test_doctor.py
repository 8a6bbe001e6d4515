"""`dola doctor`, on tiny models and on a real one."""

import dataclasses
import io
import json
import logging
import sys

import pytest
import torch
from families import tiny
from odd_tokenizers import LOSES, save_odd
from rich.console import Console
from transformers.utils import logging as transformers_logging
from typer.testing import CliRunner
from words import word_tokenizer

from dola.cli import main
from dola.cli.app import app
from dola.cli.doctor import SCHEMA, parse_layers
from dola.cli.doctor_page import STYLES, render
from dola.doctor.checkup import check_up
from dola.doctor.environment import Device, look_around

runner = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model in a folder."""
    path = tmp_path_factory.mktemp("model")
    tiny("llama").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(scope="module")
def machine():
    return look_around()


def mistake(monkeypatch, capsys, *args):
    """The error message of the whole command."""
    monkeypatch.setattr(sys, "argv", ["dola", "doctor", *args])
    with pytest.raises(SystemExit) as stop:
        main()
    captured = capsys.readouterr()
    assert (stop.value.code, captured.out) == (2, "")
    return captured.err


def paths(value, path=""):
    """The field paths of a JSON value that the schema must document: maps from names to values are one field."""
    if path in ("environment.packages", "environment.variables"):
        return {path}
    if isinstance(value, dict):
        return set().union(*(paths(inner, f"{path}.{key}".lstrip(".")) for key, inner in value.items()))
    if isinstance(value, list):
        return set().union(*(paths(inner, f"{path}[]") for inner in value))
    return {path}


def test_the_machine_alone():
    done = runner.invoke(app, ["doctor"])
    assert done.exit_code == 0
    assert f"torch {torch.__version__}" in done.stdout
    assert "Checks" not in done.stdout
    assert all(len(line) <= 80 for line in done.stdout.splitlines())


def test_a_model(folder):
    done = runner.invoke(app, ["doctor", folder])
    assert done.exit_code == 0
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    for line in (
        "  blocks          6 x LlamaDecoderLayer at model.layers",
        "  final norm      LlamaRMSNorm at model.norm",
        "  logit transform none",
        "  layers low      0, 2",
        "  layers high     3, 5",
        "  layers all      0 to 5",
    ):
        assert line in lines
    assert sum(": " in line and line.split(": ")[0].endswith(" ok") for line in lines) == 12
    assert lines[-1] == "All 12 checks passed."
    assert all(len(line) <= 80 for line in lines)


def test_json_holds_what_the_schema_says(folder):
    done = runner.invoke(app, ["doctor", folder, "--json"])
    assert done.exit_code == 0
    result = json.loads(done.stdout)
    assert result.pop("schema") == "dola.doctor/1"
    assert result.pop("dola")
    documented = set(SCHEMA)
    assert {path for path in paths(result) if path.replace("layers[]", "layers") not in documented} <= documented
    assert result["model"]["healthy"] is True
    assert result["model"]["name"] == folder
    assert result["model"]["load_seconds"] > 0
    assert result["model"]["parts"]["blocks"] == "LlamaDecoderLayer at model.layers"
    assert result["model"]["layers"] == [3, 5]


def test_json_of_the_machine_alone():
    result = json.loads(runner.invoke(app, ["doctor", "--json"]).stdout)
    assert result["model"] is None
    assert result["environment"]["packages"]["torch"] == torch.__version__


def test_layers_dtype_device(folder):
    done = runner.invoke(app, ["doctor", folder, "--layers", "1,4", "--dtype", "bfloat16", "--device", "cpu", "--json"])
    model = json.loads(done.stdout)["model"]
    assert (model["layers"], model["dtype"], model["devices"]) == ([1, 4], "bfloat16", ["cpu"])
    assert model["healthy"]


def test_remote_code_is_trusted_only_when_asked(folder, monkeypatch):
    seen = []

    def load(name, **settings):
        seen.append(settings)
        return tiny("llama"), word_tokenizer()

    monkeypatch.setattr("dola.load", load)
    runner.invoke(app, ["doctor", folder])
    runner.invoke(app, ["doctor", folder, "--trust-remote-code"])
    assert [settings.get("trust_remote_code") for settings in seen] == [None, True]


def test_the_model_is_loaded_as_generate_loads_it(folder, monkeypatch):
    """Quietly, and on a GPU where there is one: what is checked is what decodes."""
    seen = []

    def load(name, **settings):
        seen.append((logging.getLogger("huggingface_hub").level, transformers_logging.get_verbosity(), settings))
        return tiny("llama"), word_tokenizer()

    monkeypatch.setattr("dola.load", load)
    monkeypatch.setattr("dola.cli.options._device_settings", lambda device: {"device_map": device or "auto"})
    assert runner.invoke(app, ["doctor", folder, "--dtype", "bfloat16"]).exit_code == 0
    ((hub, transformers, settings),) = seen
    assert (hub, transformers) == (logging.ERROR, logging.ERROR)
    assert (settings["device_map"], settings["dtype"]) == ("auto", torch.bfloat16)


def test_a_broken_model_is_described_and_the_exit_code_is_1(monkeypatch):
    broken = tiny("llama")
    broken.model.norm.weight.fill_(torch.nan)
    monkeypatch.setattr("dola.load", lambda name, **_: (broken, word_tokenizer()))
    done = runner.invoke(app, ["doctor", "broken"])
    assert done.exit_code == 1
    assert "failed: the model's logits are NaN" in done.stdout
    assert done.stdout.rstrip().endswith("Do not rely on DoLa with this model yet: 4 ok, 1 failed, 6 not run.")
    again = runner.invoke(app, ["doctor", "broken", "--json"])
    assert (again.exit_code, json.loads(again.stdout)["model"]["healthy"]) == (1, False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["nowhere"],
            "dola: 'nowhere' is neither a folder nor an embedded model. Embedded models: smollm2, gemma3-270m.\nHint: ",
        ),
        (
            ["--layers", "middle"],
            "dola: --layers middle is neither a bucket nor a list of layers. Allowed: low, high, all, ",
        ),
        (["--layers", "3,3"], "dola: layer 3 is listed twice in --layers 3,3; "),
        (["--layers", "-1"], "dola: layer -1 in --layers -1 is negative; "),
        (["FOLDER", "--layers", "6"], "dola: layer 6 in --layers 6 is the last (mature) layer and cannot be a candidate: "),
        (["FOLDER", "--dtype", "fp16"], "'fp16' is not one of 'float32', 'bfloat16', 'float16'."),
        (["FOLDER", "--device", "cuda:9"], "dola: No device 'cuda:9' on this machine. Available: "),
    ],
)
def test_mistakes(monkeypatch, capsys, folder, options, words):
    said = mistake(monkeypatch, capsys, *(folder if option == "FOLDER" else option for option in options))
    assert words in said  # behind the progress of loading, where there was something to load
    assert "\nHint: " in said
    assert "Traceback" not in said


def test_layers_as_the_command_line_takes_them():
    assert parse_layers("low").layers == "low"
    assert parse_layers("24, 28").layers == (24, 28)


@pytest.mark.parametrize("width", [40, 80, 160])
def test_the_page_keeps_its_width(machine, capsys, width):
    checkup = check_up(tiny("gemma2"), word_tokenizer())
    machine = dataclasses.replace(
        machine, devices=(Device("cuda:0", "NVIDIA H100", 80 * 10**9), Device("mps", "Apple GPU", None))
    )
    render(Console(width=width), machine, ("a/model", 1.0, checkup), ["Do this."])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= width
    assert "SoftCap(cap=15.0)" in "".join(lines)
    assert "NVIDIA H100" in " ".join(" ".join(lines).split())


def test_statuses_are_words_and_every_one_has_a_style(capsys, machine):
    checkup = check_up(tiny("llama"), word_tokenizer())
    for status in STYLES:
        checks = (dataclasses.replace(checkup.checks[0], status=status),)
        render(Console(), machine, ("m", 1.0, dataclasses.replace(checkup, checks=checks)), [])
        assert f"{status}: found 6 blocks" in capsys.readouterr().out


def test_colour_is_on_the_status_alone(machine):
    written = io.StringIO()
    console = Console(file=written, width=200, force_terminal=True, color_system="standard", no_color=False, highlight=False)
    render(console, machine, ("m", 1.0, check_up(tiny("llama"), word_tokenizer())), [])
    assert "\x1b[32mok: \x1b[0mfound 6 blocks" in written.getvalue()


def test_a_model_whose_parts_were_not_found(capsys, machine):
    checkup = dataclasses.replace(check_up(tiny("llama"), word_tokenizer()), parts=None, buckets=(), timings=None)
    render(Console(width=80), machine, ("m", 1.0, checkup), [])
    assert "final norm" not in capsys.readouterr().out


def test_a_bucket_that_cannot_be_used(capsys, machine):
    checkup = check_up(tiny("llama", num_hidden_layers=3, tie_word_embeddings=True), word_tokenizer())
    render(Console(width=200), machine, ("m", 1.0, checkup), [])
    assert 'layers="low" holds no layer in a model of 3 layers' in capsys.readouterr().out


def test_help_holds_an_example():
    assert "dola doctor smollm2" in " ".join(runner.invoke(app, ["doctor", "--help"]).output.split())


def test_the_real_model_is_healthy(smollm2, monkeypatch):
    monkeypatch.setattr("dola.load", lambda name, **_: smollm2)
    done = runner.invoke(app, ["doctor", "smollm2"])
    assert done.exit_code == 0, done.stdout
    assert "30 x LlamaDecoderLayer at model.layers" in done.stdout
    assert "' Seattle.'" in done.stdout


def test_a_folder_whose_tokenizer_is_odd(tmp_path):
    """The tokenizer is read as from_pretrained reads it, so doctor sees what a program sees."""
    save_odd(tmp_path, adds="both", mask=False, pad="beyond", template=LOSES["another key"])
    done = runner.invoke(app, ["doctor", str(tmp_path), "--json"])
    result = json.loads(done.stdout)
    checks = {check["name"]: (check["status"], check["text"]) for check in result["model"]["checks"]}
    status, text = checks["tokenizer"]
    assert (done.exit_code, status, checks["chat template"][0]) == (1, "warning", "failed")
    for words in ("appends 2 ('</s>')", "does not return an attention mask", "the padding token '<padding>' among them"):
        assert words in text
    assert "drops the words" in checks["chat template"][1]
    assert any("use --no-chat" in sentence for sentence in result["advice"])
    assert [name for name, (status, _) in checks.items() if status == "failed"] == ["chat template"]


def test_another_method(dola_command, folder, toy):
    done = dola_command("doctor", folder, "--json", "--method", "toy", "--set", "rate=0.9")
    assert done.code == 0, done.out
    checks = {check["name"]: check for check in json.loads(done.out)["model"]["checks"]}
    assert "float64" in checks["contrast"]["text"]
    assert checks["contrast"]["status"] == "ok"
