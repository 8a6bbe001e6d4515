"""`dola lens`: a lens is fitted, shown, imported and used from the command line; mistakes give clear messages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command import fields, save
from typer.testing import CliRunner

import dola
from dola.cli import lens as verb
from dola.cli.app import app

TEXT = "\n".join(f"The number {number} is written {number} times {number}." for number in range(300))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return save(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    text, output = folder.parent / "text.txt", folder.parent / "tiny.lens.safetensors"
    text.write_text(TEXT)
    given = ["--text", text, "--layers", "3,5", "--tokens", "2000", "--output", output, "--trust-remote-code"]
    done = run("fit", folder, *given, "--dtype", "float32", "--device", "cpu", "--threads", torch.get_num_threads())
    assert done.exit_code == 0, done.output
    assert output.exists()
    assert "layers    3,5" in done.stdout
    return output


def run(*arguments: object, verb: str = "lens") -> Any:
    return CliRunner().invoke(app, [verb, *map(str, arguments)], env={"COLUMNS": "300"})


def test_a_refined_lens_shows_both_figures(folder: Path, tmp_path: Path):
    text, output = tmp_path / "text.txt", tmp_path / "refined.lens.safetensors"
    text.write_text(TEXT)
    done = run("fit", folder, "--text", text, "--layers", "3", "--tokens", "500", "--refine", "3", "--output", output)
    assert done.exit_code == 0, done.output
    assert "refined   3 steps that lower KL, after least squares" in done.stdout
    assert "least squares alone: KL " in done.stdout
    shown = json.loads(run("show", output, "--json").stdout)
    assert (shown["refined"], shown["kind"]) == (3, "linear")
    assert fields(shown) - {"schema", "dola"} == set(verb.SCHEMA)
    refused = run("fit", folder, "--refine", "-1", "--output", output)
    assert str(refused.exception).startswith("--refine -1 is out of range; allowed is 0 or more.")


def test_an_interrupted_fit_says_where_it_resumes(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    text, output = tmp_path / "text.txt", tmp_path / "tiny.lens.safetensors"
    text.write_text(TEXT)
    given = ["fit", folder, "--text", text, "--layers", "3", "--tokens", "500", "--output", output]

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("dola.lens.quality.Table.add", stop)
        done = run(*given)
    assert done.exit_code != 0
    assert f"{output}.partial keeps what was done; the same command resumes there" in done.stderr
    done = run(*given)
    assert done.exit_code == 0
    assert f"Resuming from {output}.partial." in done.stderr
    assert [path.name for path in tmp_path.iterdir() if path != text] == [output.name]


def test_show_as_json(file: Path):
    found = json.loads(run("show", file, "--json").stdout)
    assert found["schema"] == "dola.lens/1"
    assert fields(found) - {"schema", "dola"} == set(verb.SCHEMA)
    assert [row["layer"] for row in found["table"]] == found["layers"] == [3, 5]


def test_show_prints_a_row_for_each_layer(file: Path):
    lines = run("show", file).stdout.splitlines()
    assert lines[0] == "kind      linear"
    assert len([line for line in lines if "|" in line]) == 3


def test_generate_reads_through_it(file: Path, folder: Path):
    given = ["The number", "--model", folder, "--layers", "3,5", "--max-new-tokens", "3", "--no-chat", "--json"]
    done = run(*given, "--lens", file, verb="generate")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["settings"]["lens"] == str(file)


def test_trace_prints_both_readings(file: Path, folder: Path):
    done = run("The number", "--model", folder, "--layers", "3,5", "--lens", file, verb="trace")
    titles = [line for line in done.stdout.splitlines() if "the prompt's own tokens" in line]
    assert [f"lens {file.name}" in title for title in titles] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["show", "missing.safetensors"], "The lens file 'missing.safetensors' does not exist"),
        (["fit", "MODEL", "--output", "x", "--layers", "hihg"], "--layers 'hihg' is not a name of layers"),
        (["fit", "MODEL", "--output", "x", "--text", "missing.txt"], "--text 'missing.txt': No such file"),
        (["import", "missing", "--output", "x.safetensors"], "config.json"),
    ],
)
def test_mistakes(arguments: list[str], words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    error = run(*arguments).exception
    assert isinstance(error, dola.DolaError)  # `run` of the command prints both and exits with 2
    assert words in error.message
    assert error.hint


def test_import(tmp_path: Path):
    torch.save({"0.weight": torch.zeros(2, 2), "0.bias": torch.zeros(2)}, tmp_path / "params.pt")
    (tmp_path / "config.json").write_text('{"d_model": 2, "num_hidden_layers": 1, "base_model_name_or_path": "a/b"}')
    done = run("import", tmp_path, "--output", tmp_path / "lens.safetensors")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[:2] == ["kind      tuned", "model     a/b, 1 layers of width 2, unknown dtype"]


def test_a_chart_is_drawn_or_refused_before_the_model_is_loaded(file: Path, tmp_path: Path):
    pytest.importorskip("matplotlib")
    assert run("show", file, "--chart", tmp_path / "layers.svg").exit_code == 0
    assert "<svg" in (tmp_path / "layers.svg").read_text()
    refused = run("fit", "missing", "--output", tmp_path / "x", "--chart", tmp_path / "layers.doc")
    assert "must end in .png, .svg, .pdf" in refused.exception.message
