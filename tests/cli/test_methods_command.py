"""`dola methods`: every method with its settings, for people and as JSON."""

import json

from typer.testing import CliRunner

import dola
from dola.cli.app import app
from dola.methods.facts import Cost
from dola.methods.registry import METHODS

runner = CliRunner()


def test_for_people():
    done = runner.invoke(app, ["methods"])
    assert done.exit_code == 0
    for name, kind in METHODS.items():
        assert f"{name:9}  {kind.summary}\n" in done.stdout
    assert "rate=2.0, scale=10, steps=10" in done.stdout
    assert "presets: factor, gsm8k, strategyqa, truthfulqa" in done.stdout


def test_as_json():
    found = json.loads(runner.invoke(app, ["methods", "--json"]).stdout)
    assert found["schema"] == "dola.methods/1"
    by_name = {each["method"]: each for each in found["methods"]}
    assert list(by_name) == list(METHODS)
    assert by_name["sled"]["settings"]["scale"] == 10
    assert by_name["sled"]["presets"]["truthfulqa"] == {"rate": 2.5, "scale": 75}


def test_measured_costs_are_shown(monkeypatch):
    cost = Cost(1.05, "SmolLM2, bfloat16, batch 1, two cores")
    monkeypatch.setattr(dola.SLEDConfig, "costs", (cost,))
    expected = "time: 1.05 times the time of greedy decoding (SmolLM2, bfloat16, batch 1, two cores)\n"
    assert expected in runner.invoke(app, ["methods"]).stdout
    found = {each["method"]: each for each in json.loads(runner.invoke(app, ["methods", "--json"]).stdout)["methods"]}
    assert found["sled"]["costs"] == [{"times": 1.05, "where": cost.where}]


def test_a_packages_method(toy):
    assert "toy        adds no description of itself" in runner.invoke(app, ["methods"]).stdout
