"""docs/add-a-method.md as somebody follows it: its files, installed as a package is, through Python and the command."""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from command import tokenizer
from families import FAMILIES, readout, tiny
from toy_method import installed
from words import word_tokenizer

import dola
from dola.methods.registry import METHODS

GUIDE = (Path(__file__).parents[2] / "docs" / "add-a-method.md").read_text("utf-8")
BLOCK = re.compile(r"<!-- (file|part of): (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
IDS = torch.arange(3, 15)[None]


def blocks(kind: str) -> list[tuple[str, str]]:
    """Names of files, and the text of the guide's blocks that are whole files, or parts of them."""
    return [(name, text) for found, name, text in BLOCK.findall(GUIDE) if found == kind]


def run(text: str, names: dict[str, Any]) -> None:
    """Run a block as a file of its own would be: without this file's `from __future__`."""
    exec(compile(text, "add-a-method.md", "exec", dont_inherit=True), names)


@pytest.fixture
def mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of the guide, with its entry point, as `pip install` leaves them."""
    files = dict(blocks("file"))
    (tmp_path / "mean_method.py").write_text(files["mean_method.py"])
    (entry,) = re.findall(r'dola\.methods"\]\n(.*)\n', files["pyproject.toml"])
    monkeypatch.syspath_prepend(installed(tmp_path, entry.replace('"', "")))
    yield import_module("mean_method")
    del sys.modules["mean_method"]


def means(model: Any, layers: tuple[int, ...] = (3, 4, 5, 6), family: str = "llama") -> torch.Tensor:
    """The mean of these layers' logits [T, V], from what the model itself returns; the last one is the model's own."""
    with torch.no_grad():
        out = model(IDS, output_hidden_states=True)
    found = [readout(model, FAMILIES[family], out.hidden_states[j])[0] for j in layers[:-1]]
    return torch.stack([*found, out.logits[0]]).double().mean(dim=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
def test_attach(mean: Any, family: str):
    model = tiny(family)
    expected = means(model, family=family)
    with dola.attach(model, mean.MeanConfig()) as attachment, torch.no_grad():
        found = model(IDS).logits[0]
    assert attachment.layers == (3, 4, 5)
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-3)


def test_generate_by_configuration_and_by_name(mean: Any, llama: Any):
    call = {"max_new_tokens": 5, "do_sample": False}
    found = dola.generate(llama, IDS, dola_layers=mean.MeanConfig(), **call)
    assert torch.equal(found, dola.generate(llama, IDS, dola_method="mean", **call))
    assert int(found[0, 12]) == int(means(llama)[-1].argmax())


def test_score_and_trace(mean: Any, llama: Any):
    ids, expected = IDS[0].tolist(), means(llama)
    found = dola.score(llama, word_tokenizer(), [ids[:6]], [[ids[6:]]], {"mean": mean.MeanConfig()}, progress=False)
    log_p = expected[5:11].log_softmax(dim=-1)
    assert found.values["mean"][0][0] == pytest.approx(sum(float(log_p[i, t]) for i, t in enumerate(ids[6:])), abs=5e-3)
    trace = dola.trace(llama, word_tokenizer(), ids, mean.MeanConfig())
    assert [token.dola_choice for token in trace.tokens] == expected.argmax(dim=-1).tolist()


def test_the_command(mean: Any, dola_command: Any, folder: Path):
    assert "mean       averages the logits of the last layers" in dola_command("methods").out
    asked = ["-m", folder, "--max-new-tokens", 2, "--json", "--method", "dola", "--method", "mean"]
    ended = dola_command("compare", "The cat", *asked)
    assert (ended.code, ended.err) == (0, "")
    assert json.loads(ended.out)["columns"][-1]["title"] == "mean last:3, penalty 1.2"


def test_the_file_that_tries_it(mean: Any, llama: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(dola, "load", lambda: (llama, tokenizer()))
    run(dict(blocks("file"))["try_it.py"], {})
    assert capsys.readouterr().out.strip()


def test_settings_and_the_cheaper_rule(mean: Any, llama: Any, monkeypatch: pytest.MonkeyPatch):
    """The parts that the guide shows later, in the place of the first ones."""
    settings, rule = (text for _, text in blocks("part of"))
    inside = dict(vars(mean))
    run(settings, inside)
    assert [each.name for each in inside["MeanConfig"].options()] == ["share", "final_norm", "lens"]
    run(rule, inside)
    monkeypatch.setattr(mean, "Mean", inside["Mean"])
    with dola.attach(llama, mean.MeanConfig([2, 4])), torch.no_grad():
        found = llama(IDS).logits[0]
    torch.testing.assert_close(found.double(), means(llama, (2, 4, 6)), rtol=0, atol=2e-3)
    assert METHODS["mean"] is mean.MeanConfig
