"""`dola mlx-server`: real requests to mlx-lm's server, decoded as each asks, or refused with the reason."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from http.client import HTTPConnection

import pytest
from command import COMMAND, environment
from mlx_lm import stream_generate
from mlx_lm.sample_utils import make_logits_processors

import dola.mlx
from dola.methods.registry import config_of

PROMPT, NEW, PENALTY = "The quick brown fox", 12, 1.5
ASKED = [
    {"dola_layers": "off"},
    {"dola_layers": "high"},
    {"dola_layers": [1]},
    {"dola_layers": "1,2"},
    {"dola_layers": "low", "dola_strength": 0.5, "dola_scores": "distribution"},
    {"dola_method": "sled", "dola_rate": 1.0},
    {"dola_method": "confident", "dola_layers": "all"},
    {"dola_method": "delta", "dola_layers": "all"},
]


class Server:
    """A server process, and requests to it."""

    def __init__(self, folder, *arguments):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder.parent / f"server-{self.port}.log"
        command = [*COMMAND, "mlx-server", str(folder), "--port", str(self.port), *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, env=environment(), stdout=log, stderr=log)
        until = time.monotonic() + 180
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.process.kill()
                raise AssertionError(self.log.read_text())
            time.sleep(0.1)

    def answers(self):
        try:
            return self.request("GET", "/health")[0] == 200
        except OSError:
            return False

    def request(self, verb, path, body=None):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(verb, path, None if body is None else json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def complete(self, **body):
        usual = {"prompt": PROMPT, "max_tokens": NEW, "repetition_penalty": PENALTY, "logprobs": True}
        return self.request("POST", "/v1/completions", {**usual, **body})

    def tokens(self, **body):
        status, answer = self.complete(**body)
        assert status == 200, answer
        return [each["id"] for each in json.loads(answer)["choices"][0]["logprobs"]["content"]]

    def end(self):
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture(scope="module")
def plain(folder):
    """A server that decodes plainly unless a request asks for more."""
    server = Server(folder)
    yield server
    server.end()


@pytest.fixture(scope="module")
def wanted(folder):
    """The tokens that mlx-lm's own loop makes of the same settings."""
    model, tokenizer = dola.mlx.load(str(folder))
    found = []
    for asked in ASKED:
        given = {name.removeprefix("dola_"): value for name, value in asked.items()}
        if given.get("layers") == "1,2":
            given["layers"] = [1, 2]
        plain = given.get("layers") == "off"
        with nullcontext() if plain else dola.mlx.attach(model, config_of(given)):
            steps = stream_generate(
                model, tokenizer, PROMPT, max_tokens=NEW, logits_processors=make_logits_processors(None, PENALTY, 20)
            )
            found.append([step.token for step in steps])
    assert len(set(map(tuple, found))) > len(found) // 2  # the options matter
    return found


def test_each_request_is_decoded_as_it_asks(plain, wanted):
    assert [plain.tokens(**asked) for asked in ASKED] == wanted
    assert plain.tokens() == wanted[0]
    loops = [plain.tokens(**asked, repetition_penalty=0) for asked in ASKED]
    assert [plain.tokens(**asked, repetition_penalty=0, seed=1) for asked in ASKED] == loops  # with a seed: no batches
    assert loops[0] != loops[1]


def test_requests_at_once(plain, wanted):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda asked: plain.tokens(**asked), ASKED * 3))
    assert found == wanted * 3


def test_a_stream_and_a_chat(plain):
    status, answer = plain.complete(**ASKED[1], stream=True)
    parts = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
    assert status == 200
    _, whole = plain.complete(**ASKED[1])
    assert "".join(part["choices"][0]["text"] for part in parts) == json.loads(whole)["choices"][0]["text"]

    def chat(**options):
        messages = [{"role": "user", "content": PROMPT}]
        status, answer = plain.request(
            "POST", "/v1/chat/completions", {"messages": messages, "max_tokens": NEW, "logprobs": True, **options}
        )
        assert status == 200, answer
        return [each["id"] for each in json.loads(answer)["choices"][0]["logprobs"]["content"]]

    assert chat(**ASKED[5]) != chat() == chat(dola_layers="off")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dola_layers": [9]}, "layer 9 in layers=[9] does not exist; allowed are 0 to 5"),
        ({"dola_layers": "middle"}, "'middle'"),
        ({"dola_layers": {"a": 1}}, "is neither a bucket"),
        ({"dola_layer": "high"}, "'dola_layer' is not an option of DoLa. Allowed: dola_layers, "),
        ({"dola_layers": "high", "dola_strength": -1}, "strength"),
        ({"dola_layers": "high", "dola_divergence": "kl"}, "divergence='kl'"),
        ({"dola_method": "none"}, "'none'"),
        ({"dola_method": "sled", "dola_strength": 1}, "'dola_strength' is not an option of the method 'sled'"),
        ({"dola_method": "confident", "dola_probability": 0.5}, "draws at each position"),
        ({"dola_strength": 0.5}, "DoLa is off for requests that do not name layers"),
        ({"dola_layers": "off", "dola_strength": 0.5}, "omit one of the two"),
        ({"dola_lens": "x.safetensors", "dola_layers": "high"}, "'dola_lens' is not an option"),
        ({"vllm_xargs": {"dola_layers": "high"}}, "'dola_layers' is inside 'vllm_xargs'"),
        ({"model": "another", "dola_layers": "high"}, "The model 'another' was asked for with the method 'dola'"),
    ],
)
def test_wrong_options_are_refused(plain, options, words):
    status, answer = plain.complete(**options)
    assert status == 400
    error = json.loads(answer)["error"]
    assert words in error
    assert "Hint: " in error
    assert plain.complete()[0] == 200


def test_a_method_for_requests_without_options(folder, wanted):
    server = Server(folder, "--method", "sled", "--set", "rate=1")
    try:
        assert server.tokens() == wanted[5]
        assert server.tokens(**ASKED[0]) == wanted[0]
        assert server.tokens(**ASKED[1], dola_method="dola") == wanted[1]
        assert server.tokens(model=str(folder)) == wanted[5]
        said = server.log.read_text()
        assert "DoLa is on for requests without options. Method sled" in said
        assert "curl http://localhost:" in said
        assert "Starting httpd at 127.0.0.1 on port" in said
    finally:
        server.end()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["FOLDER", "--layers", "9"], "layer 9 in --layers 9 does not exist"),
        (["FOLDER", "--lens", "none.safetensors"], "does not exist"),
        (["/nowhere"], "'/nowhere' cannot be loaded with MLX"),
        (["smollm2"], "'smollm2' is a GGUF file, which mlx-lm does not read"),
        (["FOLDER", "--model", "x"], "--model was given in addition"),
        (["--port", "1"], "'--port' is in the place of the model"),
        (["FOLDER", "--port", "TAKEN"], "The server cannot listen on 127.0.0.1:"),
        (["FOLDER", "--port", "99999"], "--port 99999 is not a port"),
    ],
)
def test_failures_at_the_start_are_reported(folder, arguments, words):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        given = {"FOLDER": str(folder), "TAKEN": str(taken.getsockname()[1])}
        ended = subprocess.run(
            [*COMMAND, "mlx-server", *(given.get(each, each) for each in arguments)],
            capture_output=True, text=True, check=False, timeout=180, env={**environment(), "HF_HUB_OFFLINE": "1"}, cwd=os.sep,
        )  # fmt: skip
    assert ended.returncode == 2, ended.stderr
    assert words in ended.stderr
    assert "Hint: " in ended.stderr
    assert "Traceback" not in ended.stderr
