"""`dola ui`: every option, and how it starts and refuses to. The page itself is tests/integration/test_ui.py's."""

import socket
from importlib.util import find_spec

import pytest

from dola.installed.hints import install_line
from dola.ui import server


@pytest.fixture
def served(dola_command, monkeypatch, folder):
    """Run `dola ui` up to the point where it would serve, and return what it would serve."""

    def run(*arguments, installed=True):
        found = {}
        if installed:
            monkeypatch.setattr(server, "check_extra", lambda: None)
        monkeypatch.setattr(server, "application", lambda session, **settings: found.update(session=session, **settings))

        def serve(app, listening, *, session, ready):
            found["address"] = listening.getsockname()
            ready()
            listening.close()

        monkeypatch.setattr(server, "serve", serve)
        found["ended"] = dola_command("ui", *arguments)
        return found

    return run


def test_what_is_served(served, folder):
    found = served("--model", folder, "--port", 0, "--max-prompt-tokens", 30, "--max-new-tokens", 7)
    assert (found["ended"].code, found["ended"].err) == (0, "")
    host, port = found["address"]
    assert host == "127.0.0.1"
    assert found["ended"].out == f"dola ui: http://127.0.0.1:{port}/\n"
    session = found["session"]
    assert (session.limits.prompt_tokens, session.limits.new_tokens) == (30, 7)
    assert found["model"] == str(folder)
    assert found["models"] == ["smollm2", "gemma3-270m"]
    assert found["hosts"] == server.LOOPBACK
    assert session.models.has(str(folder))


def test_the_model_is_loaded_as_the_options_say(served, folder):
    options = ["--dtype", "bfloat16", "--device", "cpu", "--trust-remote-code", "--host", "localhost", "--no-open"]
    found = served("-m", folder, "--port", 0, *options)
    assert str(found["session"].models.get(str(folder)).model.dtype) == "torch.bfloat16"
    assert found["ended"].err == ""


def test_other_models_bring_no_code(served, folder, monkeypatch):
    found, seen = served("-m", folder, "--port", 0, "--trust-remote-code"), {}
    monkeypatch.setattr("dola.cli.options.load_model", lambda name, **settings: seen.update(settings, name=name))
    found["session"].models.get("owner/model")
    assert (seen["name"], seen["trust_remote_code"]) == ("owner/model", False)


def test_it_opens_a_browser_if_asked_to(served, folder, monkeypatch):
    opened = []
    monkeypatch.setattr("typer.launch", opened.append)
    found = served("-m", folder, "--port", 0, "--open")
    assert opened == [f"http://127.0.0.1:{found['address'][1]}/"]


def test_another_address_gives_a_warning(served, folder):
    found = served("-m", folder, "--host", "0.0.0.0", "--port", 0)
    assert "Anyone who can reach this address" in found["ended"].err
    assert found["hosts"] is None


def test_a_port_that_is_taken(served, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = served("-m", folder, "--port", port)["ended"]
    assert ended.code == 2
    assert ended.err == f"dola: Port {port} of 127.0.0.1 is taken.\nHint: --port 0 for any free port\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "256.1.1.1.1"], "--host '256.1.1.1.1' is not an address"),
        (["--host", "203.0.113.7"], "--host 203.0.113.7 --port"),
        (["--port", 70000], "--port 70000 is out of range; allowed is 0 to 65535"),
        (["--max-new-tokens", 0], "--max-new-tokens 0 is out of range"),
        (["--max-prompt-tokens", 0], "--max-prompt-tokens 0 is out of range"),
        (["--port", 0, "--model", "./nowhere"], "The folder './nowhere' does not exist"),
    ],
)
def test_mistakes(served, folder, options, message):
    ended = served("-m", folder, *options)["ended"]
    assert ended.code == 2
    assert message in ended.err
    assert "Traceback" not in ended.err


def test_options_from_a_file(served, folder, tmp_path):
    (tmp_path / "ui.json").write_text(f'{{"model": "{folder}", "port": 0, "max-new-tokens": 5}}')
    assert served("--config", tmp_path / "ui.json")["session"].limits.new_tokens == 5


def test_without_the_extra_the_install_line_is_printed(served, folder, monkeypatch):
    monkeypatch.setattr(server, "find_spec", lambda name: None if name == "gradio" else find_spec("json"))
    ended = served("-m", folder, "--port", 0, installed=False)["ended"]
    assert ended.code == 2
    assert ended.err == f"dola: The page needs gradio, which is not installed.\nHint: {install_line('ui')}\n"


def test_an_ipv6_address_is_written_as_one():
    try:
        listening = server.bind("::1", 0)
    except Exception as error:
        pytest.skip(f"no IPv6 here: {error}")
    with listening:
        assert server.url(listening) == f"http://[::1]:{listening.getsockname()[1]}/"
