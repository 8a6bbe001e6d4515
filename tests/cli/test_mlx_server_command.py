"""`dola mlx-server`: what it hands to mlx-lm, and what it refuses. The server itself is tested in tests/apple."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest


@pytest.fixture
def started(monkeypatch):
    """With an mlx-lm that seems to be installed, what would have been served."""
    runs = []
    module = ModuleType("dola.integrations.mlx_server")

    def serve(arguments, settings, *, on_ready):
        runs.append((arguments, settings))
        on_ready(SimpleNamespace(in_force=lambda: "what is served"), "127.0.0.1", 8080)

    module.serve = serve
    monkeypatch.setitem(sys.modules, "dola.integrations.mlx_server", module)
    monkeypatch.setattr("dola.mlx.need.check", lambda: None)
    return runs


def test_plain_decoding_is_the_default(dola_command, started):
    ended = dola_command("mlx-server", "owner/model", "--port", "9000", "--temp", "0.5")
    assert (ended.code, ended.out) == (0, "")
    ((arguments, settings),) = started
    assert arguments == ["--port", "9000", "--temp", "0.5", "--model", "owner/model"]
    assert (settings["default"], settings["capture"], settings["layers"]) == ("off", "all", "high")
    assert "what is served" in ended.err
    assert '"dola_layers": "high"' in ended.err


@pytest.mark.parametrize(
    ("options", "name", "value"),
    [
        (["--layers", "1,2"], "layers", (1, 2)),
        (["--method", "sled", "--set", "rate=3"], "rate", 3.0),
        (["--strength", "0.5"], "strength", 0.5),
    ],
)
def test_options_are_for_requests_without_options(dola_command, started, options, name, value):
    ended = dola_command("mlx-server", "owner/model", *options)
    assert ended.code == 0
    ((_, settings),) = started
    assert settings["default"] == "on"
    assert settings[name] == value
    assert '"dola_layers": "off"' in ended.err


def test_a_lens_decides_which_layers_requests_can_choose(dola_command, started):
    assert dola_command("mlx-server", "owner/model", "--lens", "x.safetensors").code == 0
    assert "capture" not in started[0][1]


def test_off_names_no_layers(dola_command, started):
    assert dola_command("mlx-server", "owner/model", "--layers", "off").code == 0
    assert started[0][1] == {"capture": "all", "default": "off"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "9000"], "'--port' is in the place of the model"),
        (["owner/model", "--model", "other"], "--model was given in addition to 'owner/model'"),
        (["smollm2"], "is a GGUF file, which mlx-lm does not read"),
        (["owner/model", "--layers", "middle"], "--layers 'middle' is not known"),
        (["owner/model", "--layers", "off", "--method", "sled"], "cannot be used with --layers off"),
    ],
)
def test_mistakes(dola_command, started, arguments, words):
    ended = dola_command("mlx-server", *arguments)
    assert (ended.code, ended.out, started) == (2, "", [])
    assert words in ended.err
    assert "Hint: " in ended.err


@pytest.mark.skipif(find_spec("mlx") is not None, reason="MLX is installed: tests/apple run it")
def test_a_missing_extra(dola_command):
    ended = dola_command("mlx-server", "owner/model")
    assert ended.code == 2
    assert "needs mlx and mlx-lm" in ended.err
