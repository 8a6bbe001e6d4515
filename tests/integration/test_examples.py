"""The worked examples, as `make demo` runs them."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "worked_examples.py"


def test_worked_examples(smollm2, monkeypatch, capsys):
    monkeypatch.setattr("dola.load", lambda name, **settings: smollm2)
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--max-new-tokens", "2"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for part in ("Darth Vader", "Declaration of Independence", "Washington State", "Wole Soyinka", "DoLa 26, 28"):
        assert part in shown


def test_a_model_that_does_not_exist(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "no-such-model"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert stop.value.code == 2
    assert "neither a folder nor an embedded model" in capsys.readouterr().err
