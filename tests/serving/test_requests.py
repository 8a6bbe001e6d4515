"""Kinds of requests to a server that decodes with DoLa by default: each is decoded as it asks, or refused with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import command
import pytest
from engines import Judge
from servers import Server

CHAT = [{"role": "user", "content": "What is it?"}]
LAYERS: dict[str, Any] = {"default": "high", "off": None, "low": "low", "list": [2, 4]}
"""What a request asks for, and what it then gets."""


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    log = tmp_path_factory.mktemp("server") / "log.txt"
    started = Server(tiny_folder, log, "--capture", "all", "--enable-scale-out")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def judge(tiny_folder: Path) -> Judge:
    return Judge(tiny_folder)


def _options(way: str) -> dict[str, Any]:
    return {} if way == "default" else {"dola_layers": "off" if way == "off" else LAYERS[way]}


def _chat_tokens(judge: Judge, way: str) -> list[int]:
    prompt = judge.tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    return judge.tokens(prompt, LAYERS[way])


def _text(judge: Judge, tokens: list[int]) -> str:
    return judge.tokenizer.decode(tokens, skip_special_tokens=True)


@pytest.mark.parametrize("way", LAYERS)
def test_completions_in_all_their_kinds(way: str, server: Server, judge: Judge):
    expected = judge.tokens("abc def", LAYERS[way])
    given = {"prompt": "abc def", "vllm_xargs": _options(way)}
    for more in ({}, {"echo": True}, {"n": 2, "temperature": 1e-3, "seed": 1}, {"logprobs": 2}, {"priority": 0}):
        status, answer = server.post(**given, **more)
        assert status == 200, answer
        assert [choice["token_ids"] for choice in answer["choices"]] == [expected] * more.get("n", 1)
    assert server.post("/invocations", **given)[1]["choices"][0]["token_ids"] == expected


@pytest.mark.parametrize("way", LAYERS)
def test_chats_in_all_their_kinds(way: str, server: Server, judge: Judge):
    expected, xargs = _chat_tokens(judge, way), {"vllm_xargs": _options(way)}
    chosen = server.post("/v1/chat/completions", messages=CHAT, **xargs)[1]["choices"]
    assert [choice["token_ids"] for choice in chosen] == [expected]
    tool = {"name": "f", "parameters": {"type": "object", "properties": {"dola_layers": {"type": "string"}}}}
    tools = {"tools": [{"type": "function", "function": tool}], "tool_choice": "none"}
    assert server.post("/v1/chat/completions", messages=CHAT, **tools, **xargs)[0] == 200
    chosen = server.post("/v1/chat/completions/batch", messages=[CHAT, CHAT], **xargs)[1]["choices"]
    assert [choice["token_ids"] for choice in chosen] == [expected] * 2
    answer = server.post("/v1/messages", messages=CHAT, **xargs)[1]
    assert answer["content"][0]["text"] == _text(judge, expected)
    answer = server.post("/v1/responses", input=CHAT, max_output_tokens=16, **xargs)[1]
    assert answer["output"][0]["content"][0]["text"] == _text(judge, expected)


@pytest.mark.parametrize("way", LAYERS)
def test_token_ids(way: str, server: Server, judge: Judge):
    sampling = {"temperature": 0, "max_tokens": 16, "extra_args": _options(way)}
    given = {"token_ids": judge.tokenizer("abc def")["input_ids"], "sampling_params": sampling}
    answer = server.post("/inference/v1/generate", **given)[1]
    assert answer["choices"][0]["token_ids"] == judge.tokens("abc def", LAYERS[way])


@pytest.mark.parametrize("options", [{}, {"dola_layers": "off"}, {"dola_layers": "on"}])
def test_what_drops_options_is_refused(options: dict[str, Any], server: Server):
    beams, xargs = {"use_beam_search": True, "n": 2}, {"vllm_xargs": options}
    for path, given in (
        ("/v1/completions", {"prompt": "abc", **beams}),
        ("/v1/chat/completions", {"messages": CHAT, **beams}),
        ("/generative_scoring", {"query": "abc", "items": ["def"], "label_token_ids": [5, 9]}),
    ):
        status, answer = server.post(path, **given, **xargs)
        assert status == 400, path
        assert "drops a request's DoLa options in vLLM" in answer["error"]["message"]
        assert "Hint: " in answer["error"]["message"]


def test_the_models_own_numbers_are_given_to_plain_requests_alone(server: Server):
    for path, given in (("/v1/completions", {"prompt": "abc def", "echo": True, "logprobs": 1}),):
        status, answer = server.post(path, **given)
        assert (status, "are the model's own" in answer["error"]["message"]) == (400, True)
        assert server.post(path, **given, vllm_xargs={"dola_layers": "off"})[0] == 200
    status, answer = server.post("/v1/chat/completions", messages=CHAT, prompt_logprobs=1)
    assert (status, "are the model's own" in answer["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    "more",
    [
        {"dola_layers": "off"},
        {"extra_body": {"vllm_xargs": {"dola_layers": "off"}}},
        {"extra_args": {"dola_layers": "off"}},
        {"dloa_layers": "off"},
    ],
    ids=lambda more: next(iter(more)),
)
def test_options_where_vllm_would_ignore_them(more: dict[str, Any], server: Server):
    for path, given in (
        ("/v1/completions", {"prompt": "abc"}),
        ("/v1/chat/completions", {"messages": CHAT}),
        ("/v1/chat/completions/batch", {"messages": [CHAT]}),
        ("/v1/responses", {"input": "abc"}),
        ("/v1/messages", {"messages": CHAT}),
        ("/inference/v1/generate", {"token_ids": [5], "sampling_params": {}}),
        ("/invocations", {"prompt": "abc"}),
    ):
        status, answer = server.post(path, **given, **more)
        assert status == 400, path
        assert "was given where vLLM ignores it" in answer["error"]["message"]


@pytest.mark.parametrize(
    "xargs",
    [
        {"dloa_layers": "off"},
        {"layers": "off"},
        {"DOLA_LAYERS": "off"},
        {"dola_layers": None},
        {"dola_layers": True},
        {"dola_layers": "OFF"},
        {"dola_layers": [2.0, 4.0]},
        {"dola_layers": "high", "dola_relative_top": "0.3"},
        "dola_layers=off",
    ],
    ids=str,
)
def test_wrong_names_and_types(xargs: Any, server: Server):
    assert server.post(prompt="abc", vllm_xargs=xargs)[0] == 400
    assert server.post(prompt="abc", vllm_xargs={"another_plugins": 1})[0] == 200


@pytest.mark.slow
def test_batch_files(tiny_folder: Path, tmp_path: Path, judge: Judge):
    """Requests from a file do not come over HTTP."""
    bodies: dict[str, dict[str, Any]] = {way: {"vllm_xargs": _options(way)} for way in LAYERS}
    refused = {"beams": {"use_beam_search": True, "n": 2, "vllm_xargs": {"dola_layers": "off"}}, "top": {"dola_layers": "off"}}
    given = {"model": "m", "messages": CHAT, "temperature": 0, "max_tokens": 16, "return_token_ids": True}
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": {**given, **body}}
        for name, body in (bodies | refused).items()
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "128", "--served-model-name", "m"]
    dola = json.dumps({"dola": {"layers": "high", "capture": "all"}})
    files = ["-i", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--model", str(tiny_folder)]
    run = [sys.executable, "-m", "vllm.entrypoints.openai.run_batch", *files, *settings, "--additional-config", dola]
    ended = subprocess.run(run, capture_output=True, text=True, check=False, env=command.environment(), timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    answers = {line["custom_id"]: line for line in map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())}
    for way in bodies:
        assert answers[way]["response"]["body"]["choices"][0]["token_ids"] == _chat_tokens(judge, way)
    for name in refused:
        assert "DoLa options" in json.dumps(answers[name]) or "where vLLM ignores it" in json.dumps(answers[name])
