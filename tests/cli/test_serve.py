"""`dola serve`: what it hands to vLLM, and what it refuses. The server itself is tested in tests/serving."""

from __future__ import annotations

import itertools
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from dola.cli import serve
from dola.installed.hints import install_vllm


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """With a vLLM that seems to be installed, the commands that would have been run."""
    runs: list[list[str]] = []
    monkeypatch.setattr(serve, "find_spec", lambda name: object())
    monkeypatch.setattr(serve, "version", lambda name: "0.32.0")
    monkeypatch.setattr(serve.os, "execv", lambda path, command: runs.append(command))
    return runs


def _dola(command: list[str]) -> dict[str, Any]:
    return json.loads(command[command.index("--additional-config") + 1])["dola"]


def test_starts_vllms_server_with_dola_in_it(dola_command: Any, started: Any):
    ended = dola_command("serve", "owner/model", "--layers", "24,28", "--port", "9000", "--dtype", "bfloat16")
    assert (ended.code, ended.out) == (0, "")
    (command,) = started
    assert command[:5] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", "owner/model"]
    assert command[-4:] == ["--port", "9000", "--dtype", "bfloat16"]
    assert _dola(command) == {
        "layers": [24, 28],
        "relative_top": 0.1,
        "divergence": "jsd",
        "strength": 1.0,
        "scores": "contrast",
        "final_norm": True,
        "lens": None,
        "default": "on",
    }
    assert "curl http://localhost:9000/v1/completions" in ended.err
    assert "dola_layers" in ended.err


@pytest.mark.parametrize(
    ("arguments", "hosts"),
    [
        ([], ["127.0.0.1"]),
        (["--host", "0.0.0.0"], ["0.0.0.0"]),
        (["--host=::"], []),
        (["--uds", "/run/vllm"], []),
        (["--ho", "0.0.0.0"], ["127.0.0.1"]),  # vLLM takes the abbreviation, and the last of two
    ],
)
def test_it_listens_on_this_machine_unless_asked(arguments: list[str], hosts: list[str], dola_command: Any, started: Any):
    ended = dola_command("serve", "owner/model", *arguments)
    (command,) = started
    assert [after for word, after in itertools.pairwise(command) if word == "--host"] == hosts
    assert ("Listens on 127.0.0.1, this machine only" in ended.err) == (hosts == ["127.0.0.1"])


def test_an_address_in_vllms_own_file_is_kept(dola_command: Any, started: Any, tmp_path: Any):
    (tmp_path / "vllm.yaml").write_text("host: 0.0.0.0\n")
    assert dola_command("serve", "m", "--config", tmp_path / "vllm.yaml").code == 0
    assert "--host" not in started[0]


def test_layers_are_handed_on_where_they_are_given(dola_command: Any, started: Any):
    assert dola_command("serve", "m", "--layers", "high", "--model-impl", "vllm", "--additive", "x").code == 0
    assert _dola(started[0])["layers"] == "high"


def test_every_setting_is_handed_on(dola_command: Any, started: Any):
    more = ["--relative-top", "0.2", "--divergence", "reference", "--no-final-norm", "--capture", "all", "--default", "off"]
    assert dola_command("serve", "m", *more).code == 0
    assert dola_command("serve", "m", "--final-norm", "--capture", "1,3").code == 0
    assert _dola(started[0]) == {  # no layers: the plugin takes those of the generation config, or "high"
        "relative_top": 0.2,
        "divergence": "reference",
        "strength": 1.0,
        "scores": "contrast",
        "final_norm": False,
        "lens": None,
        "default": "off",
        "capture": "all",
    }
    assert _dola(started[1])["capture"] == [1, 3]


def test_the_example_asks_for_dola_where_it_is_off_by_default(dola_command: Any, started: Any):
    ended = dola_command("serve", "m", "--default", "off", "--served-model-name", "mine")
    body = json.loads(ended.err.partition(" -d '")[2].partition("'\n")[0])
    assert (body["model"], body["vllm_xargs"]) == ("mine", {"dola_layers": "on"})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "1", "m"], "is in the place of the model"),
        (["smollm2"], "which vLLM does not read"),
        (["m", "--layers", "off"], "--default off"),
        (["m", "--layers", "hihg"], "is not known"),
        (["m", "--capture", "hihg"], "is not known"),
        (["m", "--relative-top", "7"], "out of range"),
        (["m", "--default", "maybe"], "maybe"),
        (["m", "--additional-config", "{}"], "pass its own settings to vLLM"),
        (["m", "--additional-config={}"], "pass its own settings to vLLM"),
        (["m", "--additional_config", "{}"], "pass its own settings to vLLM"),
        (["m", "--additional-config.dola.default", "off"], "pass its own settings to vLLM"),
        (["m", "--additional-conf", "{}"], "pass its own settings to vLLM"),
        (["m", "--model", "other"], "--model was given in addition to 'm'"),
        (["m", "--model=other"], "--model was given in addition to 'm'"),
    ],
)
def test_mistakes(arguments: list[str], words: str, dola_command: Any, started: Any):
    ended = dola_command("serve", *arguments)
    assert (ended.code, ended.out, started) == (2, "", [])
    assert words in ended.err


def test_without_vllm_it_prints_the_install_line(dola_command: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    ended = dola_command("serve", "m")
    assert ended.code == 2
    assert f"Hint: {install_vllm()}\n" in ended.err


@pytest.mark.parametrize("lacking", [[], ["vllm.sequence does not exist"]])
def test_another_vllm_starts_if_it_has_what_dola_uses(
    lacking: list[str], dola_command: Any, started: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serve, "version", lambda name: "0.99.1")
    monkeypatch.setattr(serve, "failures", lambda: lacking)
    ended = dola_command("serve", "m")
    assert (ended.code, len(started)) == ((2, 0) if lacking else (0, 1))
    if lacking:
        assert "0.99.1 is installed; dola's tests run 0.32.x" in ended.err
        assert "vllm.sequence does not exist" in ended.err


def test_another_method(dola_command: Any, started: Any, toy: Any):
    ended = dola_command("serve", "owner/model", "--method", "toy", "--set", "rate=0.9")
    assert (ended.code, ended.out) == (0, "")
    assert _dola(started[0]) == {"method": "toy", "rate": 0.9, "default": "on"}


def test_what_tune_writes_is_served(dola_command: Any, started: Any, tmp_path: Any):
    path = tmp_path / "tuned.json"
    path.write_text('{"method": "sled", "layers": "all", "set": ["rate=1.75"], "final-norm": false, "repetition-penalty": 1.2}')
    ended = dola_command("serve", "m", "--config", path, "--port", "9000")
    assert ended.code == 0, ended.err
    found = _dola(started[0])
    assert (found["method"], found["layers"], found["rate"]) == ("sled", "all", 1.75)
    assert "'repetition-penalty' is not used here" in ended.err
    assert "--config" not in started[0]
    path.write_text('{"layers": [3], "lens": "x.lens.safetensors", "strength": 0.5}')
    assert dola_command("serve", "m", "--config", path).code == 0
    found = _dola(started[1])
    assert (found["layers"], found["lens"], found["strength"]) == ([3], "x.lens.safetensors", 0.5)


def test_a_file_of_vllms_own_options_goes_to_vllm(dola_command: Any, started: Any):
    assert dola_command("serve", "m", "--config", "vllm.yaml").code == 0
    assert started[0][started[0].index("--config") + 1] == "vllm.yaml"


def test_a_file_that_says_off_is_not_served(dola_command: Any, started: Any, tmp_path: Any):
    (tmp_path / "tuned.json").write_text('{"layers": "off"}')
    ended = dola_command("serve", "m", "--config", tmp_path / "tuned.json")
    assert ended.code == 2
    assert "--layers off does not name layers to serve" in ended.err
    assert started == []


def test_check_prints_what_was_found_and_starts_nothing(dola_command: Any, started: Any, monkeypatch: pytest.MonkeyPatch):
    """What it finds is tested with vLLM, in tests/serving/test_check.py."""
    asked: list[Any] = []

    def check(model: str, settings: dict[str, Any], arguments: list[str]) -> Any:
        asked.append((model, settings["layers"], arguments))
        return SimpleNamespace(lines=lambda: ["owner/model can be served"])

    monkeypatch.setitem(sys.modules, "dola.integrations.vllm.check", SimpleNamespace(check=check))
    ended = dola_command("serve", "owner/model", "--layers", "24,28", "--check", "--dtype", "bfloat16")
    assert (ended.code, ended.out.strip()) == (0, "owner/model can be served")
    assert asked == [("owner/model", (24, 28), ["--dtype", "bfloat16"])]
    assert started == []
