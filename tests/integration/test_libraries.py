"""Libraries that call a model for their user: LangChain, LlamaIndex, `transformers serve`; see `make test-libraries`."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from command import environment, save
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

import dola

pytestmark = pytest.mark.filterwarnings("ignore")  # of these libraries
PROMPT, QUESTION = "Water boils at", "What is the capital of Washington State?"
SETTINGS = {"max_new_tokens": 8, "do_sample": False, "repetition_penalty": 1.2}
EXAMPLE = Path(__file__).parents[2] / "examples" / "transformers_serve.py"


def library(name):
    """The module, or a skip; `make test-libraries` allows none."""
    if os.environ.get("DOLA_REQUIRE_LIBRARIES"):
        return __import__(name, fromlist=["_"])
    return pytest.importorskip(name, reason=f"{name} is not installed: make test-libraries")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tiny(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


def answers(tiny, inputs, **settings):
    """The new text of plain decoding and of DoLa, which differ."""
    model, tokenizer = tiny
    start = inputs["input_ids"].shape[1]
    found = [model.generate(**inputs, **SETTINGS), dola.generate(model, **inputs, **SETTINGS, **settings)]
    plain, ours = (tokenizer.decode(out[0, start:], skip_special_tokens=True) for out in found)
    assert plain != ours
    return plain, ours


def completion(tiny):
    return answers(tiny, tiny[1](PROMPT, return_tensors="pt"))


def chat(tiny, **settings):
    said = [{"role": "user", "content": QUESTION}]
    inputs = tiny[1].apply_chat_template(said, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    return answers(tiny, inputs, **settings)


def test_langchain(tiny):
    """One text, several, and a stream."""
    kind = library("langchain_huggingface").HuggingFacePipeline
    model, tokenizer = tiny
    llm = kind(pipeline=pipeline("text-generation", model=model, tokenizer=tokenizer, return_full_text=False, **SETTINGS))
    plain, ours = completion(tiny)
    with dola.attach(model, "high"):
        assert llm.invoke(PROMPT) == ours
        assert llm.batch([PROMPT, "Honey never"])[0] == ours
        assert "".join(llm.stream(PROMPT)) == ours
    assert llm.invoke(PROMPT) == plain


def test_langchain_chat(tiny):
    """ChatHuggingFace needs the tokenizer: it would load one by the model's name."""
    langchain = library("langchain_huggingface")
    model, tokenizer = tiny
    generate = pipeline("text-generation", model=model, tokenizer=tokenizer, return_full_text=False, **SETTINGS)
    llm = langchain.ChatHuggingFace(llm=langchain.HuggingFacePipeline(pipeline=generate), tokenizer=tokenizer)
    plain, ours = chat(tiny)
    with dola.attach(model, "high"):
        assert llm.invoke(QUESTION).content == ours
    assert llm.invoke(QUESTION).content == plain


def test_llama_index(tiny):
    """One text, and a stream, which decodes in another thread."""
    kind = library("llama_index.llms.huggingface").HuggingFaceLLM
    model, tokenizer = tiny
    settings = {name: value for name, value in SETTINGS.items() if name != "max_new_tokens"}
    llm = kind(model=model, tokenizer=tokenizer, max_new_tokens=SETTINGS["max_new_tokens"], generate_kwargs=settings)
    plain, ours = completion(tiny)
    with dola.attach(model, "high"):
        assert llm.complete(PROMPT).text == ours
        assert "".join(part.delta for part in llm.stream_complete(PROMPT)) == ours
    assert llm.complete(PROMPT).text == plain


@pytest.fixture(scope="module")
def server(folder):
    """The address of `transformers serve` with DoLa installed."""
    for name in ("openai", "fastapi", "uvicorn"):
        library(name)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, EXAMPLE, folder, "--host", "127.0.0.1", "--port", port, "--device", "cpu"]
    process = subprocess.Popen(list(map(str, command)), env=environment(HF_HUB_OFFLINE="1"), stderr=subprocess.DEVNULL)
    try:
        for _ in range(240):
            try:
                urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                assert process.poll() is None, "the server ended"
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def ask(server, folder, **settings):
    """The answer of the server to QUESTION, whole or streamed."""
    config = {**SETTINGS, "eos_token_id": -1, "pad_token_id": 0, **settings.pop("config", {})}
    body = {"model": str(folder), "messages": [{"role": "user", "content": QUESTION}], "generation_config": json.dumps(config)}
    request = Request(f"{server}/v1/chat/completions", json.dumps({**body, **settings}).encode())
    request.add_header("Content-Type", "application/json")
    text = urlopen(request, timeout=120).read().decode()
    if not settings.get("stream"):
        return json.loads(text)["choices"][0]["message"]["content"]
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]
    return "".join(event["choices"][0]["delta"].get("content") or "" for event in events)


@pytest.mark.parametrize("stream", [False, True])
def test_transformers_serve(tiny, folder, server, stream):
    """A request chooses layers in its generation config. One without them is decoded plainly."""
    plain, ours = chat(tiny)
    assert ask(server, folder, stream=stream, config={"dola_layers": "high"}) == ours
    assert ask(server, folder, stream=stream, config={"dola_layers": [1]}) == chat(tiny, dola_layers=[1])[1]
    assert ask(server, folder, stream=stream) == plain


def test_transformers_serve_refuses_wrong_layers(folder, server):
    with pytest.raises(HTTPError, match="500"):
        ask(server, folder, config={"dola_layers": [99]})
    assert ask(server, folder)


@pytest.mark.parametrize("settings", [dola.DoLaConfig(), dola.SLEDConfig()], ids=lambda settings: settings.method)
def test_a_generation_config_of_a_folder_is_served(tiny, tmp_path, settings):
    """As docs/integrations.md says, `install` finds the layers in generation_config.json and decodes with its own method."""
    model, tokenizer = tiny
    inputs = tokenizer(PROMPT, return_tensors="pt")
    model.generation_config.dola_layers = "high"
    try:
        model.generation_config.save_pretrained(tmp_path)
        dola.install(settings)
        found = model.generate(**inputs, **SETTINGS)
    finally:
        dola.uninstall()
        model.generation_config.dola_layers = None
    assert json.loads((tmp_path / "generation_config.json").read_text())["dola_layers"] == "high"
    expected = dola.generate(model, **inputs, dola_method=settings.method, dola_layers="high", **SETTINGS)
    assert torch.equal(found, expected)
