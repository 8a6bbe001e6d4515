"""`dola serve` as a process: answers over HTTP, errors for bad options, and many clients at once."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from each_method import METHODS, each_method
from engines import Judge, options_for
from servers import Server

PROMPTS = ["abc def", "Hello there", "1 2 3 4", "xyz", "What is it?", "the end"]
WAYS: dict[str, Any] = {"plain": None, "off": "off", "high": "high", "low": "low", "list": [2, 4], "text": "2,4"}
GROWTH = 64 * 2**20
"""How much memory the whole server may gain under load, in bytes; the test prints what it was."""


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    started = Server(tiny_folder, log, "--layers", "high", "--capture", "all", "--default", "off")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def judge(tiny_folder: Path) -> Judge:
    return Judge(tiny_folder)


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("way", WAYS)
def test_answers_are_those_of_transformers(way: str, penalty: float, server: Server, judge: Judge):
    layers = {"off": None, "text": [2, 4]}.get(way, WAYS[way])
    for prompt in PROMPTS:
        expected = judge.tokens(prompt, layers, repetition_penalty=penalty)
        assert server.tokens(prompt, WAYS[way], repetition_penalty=penalty) == expected


@each_method
def test_methods_by_flat_names(name: str, server: Server, judge: Judge):
    config = METHODS[name]
    for prompt in PROMPTS[:3]:
        status, answer = server.post(prompt=prompt, vllm_xargs=options_for(config))
        assert status == 200, answer
        assert answer["choices"][0]["token_ids"] == judge.tokens(prompt, config)


def test_the_command_has_shown_a_request(server: Server):
    assert f"curl http://localhost:{server.port}/v1/completions" in server.log.read_text()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dola_layers": "hihg"}, "is not a bucket"),
        ({"dola_layers": [9]}, "does not exist; allowed are 0 to 5"),
        ({"dola_relative_top": 3, "dola_layers": "high"}, "out of range"),
        ({"dola_relative_top": 0.3}, "DoLa is off for requests that do not name layers"),
        ({"dola_divergence": "kl", "dola_layers": "high"}, "'jsd', 'reference'"),
        ({"dola_penalty": 1}, "is not an option of DoLa"),
        ({"dola_method": "confident", "dola_probability": 0.5}, "'confident' draws at each position"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_bad_options_are_answered_with_400_and_the_reason(path: str, options: Any, words: str, server: Server):
    text = {"prompt": "abc"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "abc"}]}
    status, answer = server.post(path, **text, vllm_xargs=options)
    assert status == 400
    assert words in answer["error"]["message"]
    assert server.get("/health") == 200


def test_streaming(server: Server, judge: Judge):
    with server.open(prompt="abc def", stream=True, vllm_xargs={"dola_layers": "high"}) as response:
        text = response.read().decode()
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {")]
    found = [token for line in lines for token in json.loads(line)["choices"][0].get("token_ids") or []]
    assert found == judge.tokens("abc def", "high")
    assert len(lines) > 1


def test_chat(server: Server, judge: Judge):
    message = {"role": "user", "content": "What is it?"}
    status, answer = server.post("/v1/chat/completions", messages=[message], vllm_xargs={"dola_layers": "high"})
    assert status == 200
    prompt = judge.tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert answer["choices"][0]["token_ids"] == judge.tokens(prompt, "high")


def test_under_load(server: Server):
    """Eight clients, 200 requests of all kinds: each answer is the one it gets alone, and the engine stays as it was."""
    kinds = [(prompt, way, penalty) for prompt in PROMPTS for way in WAYS for penalty in (1.0, 1.2)]
    alone = {kind: server.tokens(kind[0], WAYS[kind[1]], repetition_penalty=kind[2]) for kind in kinds}
    assert len({str(tokens) for tokens in alone.values()}) > len(PROMPTS) * 2  # the ways differ
    before = server.memory()

    def client(seed: int) -> int:
        own, answered = random.Random(seed), 0
        for _ in range(25):
            prompt, way, penalty = kind = own.choice(kinds)
            chance = own.random()
            if chance < 0.15:
                status, answer = server.post(prompt=prompt, vllm_xargs={"dola_layers": own.choice(["no", [77], [3, 3]])})
                assert status == 400, answer
            elif chance < 0.3:  # goes away in the middle of its answer
                with server.open(prompt=prompt, stream=True, max_tokens=100, vllm_xargs={"dola_layers": "high"}) as response:
                    response.read(own.randrange(200))
            else:
                assert server.tokens(prompt, WAYS[way], repetition_penalty=penalty) == alone[kind]
                answered += 1
        return answered

    with ThreadPoolExecutor(8) as clients:
        answered = sum(clients.map(client, range(8)))
    assert answered > 100
    assert server.get("/health") == 200
    grown = server.memory() - before
    print(f"memory grew by {grown / 2**20:.1f} MiB")
    assert grown < GROWTH
    assert all(server.tokens(kind[0], WAYS[kind[1]], repetition_penalty=kind[2]) == alone[kind] for kind in kinds[::7])
