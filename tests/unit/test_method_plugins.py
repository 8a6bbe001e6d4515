"""Packages whose method is broken or takes a used name: other methods work, and asking for the broken one gives the reason."""

import json
import logging

import pytest
from toy_method import installed
from typer.testing import CliRunner

import dola
from dola.cli.app import app
from dola.errors import ConfigError
from dola.evidence.rows import rows_of_methods
from dola.methods import METHODS, config_of, plugins
from dola.methods.registry import broken_methods, label_of, usable

BUILT_IN = ["dola", "confident", "delta", "sled"]

BROKEN = {
    "raises": ("mine = broken_package:Config", "raise RuntimeError('no GPU here')", "RuntimeError: no GPU here"),
    "exits": ("mine = broken_package:Config", "raise SystemExit(3)", "SystemExit: 3"),
    "does not parse": ("mine = broken_package:Config", "def (", "SyntaxError"),
    "is missing": ("mine = no_such_package:Config", "", "ModuleNotFoundError: No module named 'no_such_package'"),
    "lacks the class": ("mine = broken_package:Config", "x = 1", "has no attribute 'Config'"),
    "is no method": ("mine = broken_package:Config", "class Config: method = 'mine'", "is not a dola.methods.MethodConfig"),
    "is no dataclass": (
        "mine = broken_package:Config",
        "from dola.methods import MethodConfig\nclass Config(MethodConfig): method = 'mine'",
        "is not a dataclass",
    ),
    "has no name": (
        "mine = broken_package:Config",
        "from dataclasses import dataclass\nfrom dola.methods import MethodConfig\n"
        "@dataclass\nclass Config(MethodConfig): layers: str = 'all'",
        "calls itself None",
    ),
}


@pytest.fixture(autouse=True)
def _warned_of_nothing():
    plugins.warn_of_clashes.cache_clear()
    yield
    plugins.warn_of_clashes.cache_clear()


@pytest.fixture(params=BROKEN)
def broken(request, tmp_path, monkeypatch):
    """An installed package whose method cannot be used; a part of the reason."""
    entry, code, reason = BROKEN[request.param]
    (tmp_path / "broken_package.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(installed(tmp_path, entry))
    monkeypatch.delitem(__import__("sys").modules, "broken_package", raising=False)
    return reason


def test_a_broken_package_does_not_affect_other_methods(broken):
    assert list(METHODS) == BUILT_IN
    assert "mine" not in METHODS
    assert usable("mine") is None
    assert label_of("mine") == "mine"
    assert config_of({"method": "sled", "rate": 1}) == dola.SLEDConfig(rate=1)
    assert [way.recipe.dola.method for way in rows_of_methods({})] == ["confident", "delta", "sled"]
    with pytest.raises(ConfigError, match=r"method='min' is unknown; allowed are dola, confident, delta, sled\."):
        config_of({"method": "min"})


def test_asking_for_it_says_why_and_which_package(broken):
    with pytest.raises(ConfigError) as error:
        config_of({"method": "mine"})
    assert broken in error.value.message
    assert "uninstall the package that adds it: toy-method" in error.value.hint


def test_it_is_listed_as_broken(broken):
    shown = CliRunner().invoke(app, ["methods"])
    assert shown.exit_code == 0
    assert "mine       cannot be used. The method 'mine' (" in shown.stdout
    assert broken in shown.stdout
    found = json.loads(CliRunner().invoke(app, ["methods", "--json"]).stdout)
    assert [each["method"] for each in found["methods"]] == BUILT_IN
    assert [each["method"] for each in found["broken"]] == ["mine"] == list(broken_methods())
    assert broken in found["broken"][0]["error"]


def test_a_built_in_name_is_kept_and_said(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(installed(tmp_path, "sled = toy_method:ToyConfig"))
    with caplog.at_level(logging.WARNING, logger="dola"):
        assert METHODS["dola"] is dola.DoLaConfig
        assert caplog.messages == []
        assert METHODS["sled"] is dola.SLEDConfig
        assert list(METHODS) == BUILT_IN
    assert caplog.messages == ["toy-method adds a method 'sled', a name that is taken: the built-in method is used."]
    assert broken_methods() == {}


def test_a_name_that_two_packages_add(tmp_path, monkeypatch, caplog):
    for number, value in enumerate(["toy_method:ToyConfig", "other_method:OtherConfig"]):
        (tmp_path / str(number)).mkdir()
        folder = installed(tmp_path / str(number), f"toy = {value}")
        info = folder / "toy_method-1.0.dist-info"
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: package-{number}\nVersion: 1.0\n")
        info.rename(folder / f"package_{number}-1.0.dist-info")
    for number in (1, 0):  # the first is found first
        monkeypatch.syspath_prepend(tmp_path / str(number))
    with caplog.at_level(logging.WARNING, logger="dola"):
        assert METHODS["toy"].__name__ == "ToyConfig"
    assert caplog.messages == ["package-1 adds a method 'toy', a name that is taken: that of package-0 is used."]
