"""`dola ui` as people meet it: the command serves SmolLM2, and a real Chromium types, watches, stops, saves and opens.

Needs the extras `ui` and `browser` and Chromium; skipped without them (`browser.py`).
"""

import json
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from browser import chromium, lacking, serious_violations
from command import environment, heed_ctrl_c

import dola
from dola import LayerTrace
from dola.installed.hints import install_line
from dola.text.encoding import Encoder
from dola.text.token_text import visible

PROMPT = "What is the capital of Washington State?"
WATCHED = """
import socket, sys

connect = socket.socket.connect

def watched(self, address):
    if isinstance(address, tuple) and address[0] not in ("127.0.0.1", "::1"):
        print("connects to", address, file=sys.stderr)
    return connect(self, address)

socket.socket.connect = watched
from dola.cli import main
main()
"""
"""The command, which tells on stderr of connections to other machines."""
TALL = {"width": 1400, "height": 2400}
"""A window that shows the frame of the layers too: Chromium does not draw frames that are out of sight."""
WATCH = """() => {
  const box = document.querySelector("#greedy");
  window.seen = [];
  const look = () => window.seen.push(box.querySelector(".dola-answer").innerText.trim());
  new MutationObserver(look).observe(box, { subtree: true, childList: true, characterData: true });
}"""
"""Keeps every text that the greedy answer ever shows."""
LONG = 300_000
"""Milliseconds for an answer: machines that test are busy."""


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def server(browser, smollm2, tmp_path_factory):
    """The address of a running `dola ui`. It makes no requests to other hosts, and Ctrl-C ends it silently."""
    for package in ("gradio", "uvicorn"):
        if find_spec(package) is None:
            lacking(f"{package} is not installed: {install_line('ui')}")
    said = tmp_path_factory.mktemp("ui") / "stderr"
    options = ["--model", "smollm2", "--port", "0", "--max-prompt-tokens", "80", "--max-new-tokens", "400"]
    command = [sys.executable, "-c", WATCHED, "ui", *options]
    with said.open("w") as err:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=err, text=True, env=environment(HF_HUB_OFFLINE="1"), preexec_fn=heed_ctrl_c
        )
    line = process.stdout.readline()
    assert line.startswith("dola ui: http://127.0.0.1:"), said.read_text()
    yield line.split()[-1]
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out, said.read_text()) == (0, "", "")


@pytest.fixture
def visit(browser, server):
    """Opens the page in a browser context of its own. A request to another host or a console error fails the test."""
    contexts, requests, complaints = [], [], []

    def opened(**settings):
        context = browser.new_context(**{"viewport": TALL, "bypass_csp": True, **settings})
        context.set_default_timeout(LONG)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server)
        page.get_by_role("button", name="Generate").wait_for()
        contexts.append(context)
        return page

    yield opened
    assert requests
    hosts = {urlsplit(url).hostname for url in requests if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert complaints == []
    for context in contexts:
        context.close()


def generate(page, prompt=PROMPT, tokens=12):
    page.get_by_label("Prompt").fill(prompt)
    number = page.get_by_role("spinbutton").first
    number.fill(str(tokens))
    number.press("Tab")
    page.get_by_role("button", name="Generate").click()


def wait_for(page, beginning):
    page.wait_for_function(
        "start => new RegExp(`^(${start})`).test(document.querySelector('#message').innerText.trim())",
        arg=beginning,
        polling=200,  # by default it asks at every frame, and a busy browser draws none
    )
    return page.locator("#message").inner_text().strip()


def answer(page, way):
    return page.locator(f"#{way} .dola-answer").inner_text().strip()


def saved(page, path):
    """The traces that the page saves, greedy decoding's first."""
    with page.expect_download() as download:
        page.get_by_role("button", name="Save the traces").click()
    download.value.save_as(path)
    return [LayerTrace.from_json(line) for line in Path(path).read_text().splitlines()]


def layers(page):
    return page.frame_locator("iframe")


def cell(page, number, index, layer):
    return layers(page).locator("section").nth(number).locator(f'td[data-index="{index}"][data-layer="{layer}"]')


def assert_shows(page, trace, number, index, layer):
    """That pointing at a cell shows the layer's likeliest tokens, as the trace has them."""
    cell(page, number, index, layer).hover()
    section = layers(page).locator("section").nth(number)
    section.locator(".look h3", has_text=f"Layer {layer} after").wait_for()
    shown = [row.locator("td").all_text_contents()[:2] for row in section.locator("table.top tbody tr").all()]
    top = trace.tokens[index].top[layer]
    texts = [visible(trace.text(token)) for token, _ in top]
    assert [text for text, _ in shown] == [text if text.strip() else f'"{text}"' for text in texts]
    for (_, percent), (_, share) in zip(shown, top, strict=True):
        if share > 0.001:
            assert float(percent.rstrip("%")) / 100 == pytest.approx(share, abs=6e-4)


def test_tokens_stream_and_the_layers_are_those_of_trace(visit, smollm2, tmp_path):
    page = visit()
    page.evaluate(WATCH)
    generate(page, tokens=20)
    wait_for(page, "Done")
    text = answer(page, "greedy")
    growing = set(page.evaluate("seen")) - {text, "", "Nothing yet."}
    assert len(growing) >= 3, "the text came at once"
    assert all(text.startswith(each) for each in growing)
    traces = saved(page, tmp_path / "t.jsonl")
    model, tokenizer = smollm2
    prompt = Encoder.of(model, tokenizer).chat(PROMPT)
    for trace, decode in zip(traces, ("greedy", "dola"), strict=True):
        expected = dola.trace(model, tokenizer, prompt, "high", generate=20, decode=decode)
        assert [token.token for token in trace.tokens] == [token.token for token in expected.tokens]
        assert [token.layer for token in trace.tokens] == [token.layer for token in expected.tokens]
        assert answer(page, decode) == tokenizer.decode([t.token for t in trace.tokens], skip_special_tokens=True).strip()
    for number, index, layer in ((0, 0, 29), (1, 3, 17), (1, len(traces[1].tokens) - 1, 0)):
        assert_shows(page, traces[number], number, index, layer)
    chosen = layers(page).locator("section").nth(1).locator("td.chosen").all()
    assert [int(each.get_attribute("data-layer")) for each in chosen] == [token.layer for token in traces[1].tokens]


def test_the_layers_fill_while_tokens_come_and_stop_works(visit, tmp_path):
    page = visit()
    generate(page, "Write a long story about a fox.", tokens=200)
    wait_for(page, "Decoding: .* the layers of [1-9]")
    assert page.get_by_role("button", name="Generate").is_disabled()
    assert page.get_by_role("button", name="Stop").is_enabled()
    # Not click(): it waits for two frames without a change, and this browser draws in software, later than tokens come
    page.get_by_role("button", name="Stop").dispatch_event("click")
    wait_for(page, "Stopped")
    assert page.get_by_role("button", name="Stop").is_disabled()
    traces = saved(page, tmp_path / "t.jsonl")
    assert all(0 < len(trace.tokens) < 200 for trace in traces)
    assert layers(page).locator("td.chosen").count() == sum(len(trace.tokens) for trace in traces)
    generate(page, tokens=4)
    wait_for(page, "Done: 4 and 4")


def test_a_method_is_chosen_with_its_own_layers_and_settings(visit, tmp_path):
    page = visit()
    names = page.locator("[data-testid=block-info]")
    assert "DoLa contrasts the last layer" in page.locator("#method").inner_text()
    page.get_by_role("button", name="More settings").click()
    names.get_by_text("Divergence").wait_for()
    page.locator("#method input").click()
    page.get_by_role("option", name="SLED").click()
    page.locator("#method").get_by_text("SLED moves the likeliest tokens").wait_for()
    names.get_by_text("Divergence").wait_for(state="hidden")
    assert {"rate", "scale", "steps"} <= set(names.all_inner_texts())
    assert page.locator("#chosen-layers input").input_value() == "all"
    generate(page, tokens=3)
    wait_for(page, "Done: 3 and 3")
    assert page.locator("#dola h2").inner_text().startswith("SLED")
    assert saved(page, tmp_path / "sled.jsonl")[1].settings == {**dola.SLEDConfig().as_dict(), "repetition_penalty": 1.2}


def test_a_saved_trace_is_opened_after_a_reload(visit, tmp_path):
    page = visit()
    generate(page, tokens=6)
    wait_for(page, "Done")
    traces, text = saved(page, tmp_path / "mine.jsonl"), answer(page, "dola")
    with page.expect_download() as download:
        page.get_by_role("button", name="Save as a page").click()
    assert "<!DOCTYPE html>" in Path(download.value.path()).read_text()
    page.reload()
    page.get_by_role("button", name="Generate").wait_for()
    assert layers(page).locator("section").count() == 0
    page.locator("input[type=file]").set_input_files(tmp_path / "mine.jsonl")
    assert wait_for(page, "Opened").startswith("Opened mine.jsonl: tokens of greedy decoding, layers high, penalty 1.2")
    assert answer(page, "dola") == text
    assert_shows(page, traces[1], 1, 2, 20)
    assert saved(page, tmp_path / "again.jsonl") == traces


def test_two_people_at_once_get_their_own_answers(visit, smollm2, tmp_path):
    wanted = {"Name the largest planet.": "high", "Who wrote Hamlet?": "low"}
    pages = {}
    for prompt, chosen in wanted.items():
        pages[prompt] = page = visit()
        page.get_by_label("Layers").fill(chosen)
        page.get_by_label("Layers").press("Enter")
    for prompt, page in pages.items():
        generate(page, prompt, tokens=10)
    model, tokenizer = smollm2
    for number, (prompt, page) in enumerate(pages.items()):
        wait_for(page, "Done")
        traces = saved(page, tmp_path / f"{number}.jsonl")
        assert [trace.settings["layers"] for trace in traces] == [wanted[prompt]] * 2
        ids = Encoder.of(model, tokenizer).chat(prompt)
        for trace, decode in zip(traces, ("greedy", "dola"), strict=True):
            expected = dola.trace(model, tokenizer, ids, wanted[prompt], generate=10, decode=decode)
            assert [token.token for token in trace.tokens] == [token.token for token in expected.tokens]


def test_mistakes_are_shown_and_the_page_continues(visit, tmp_path):
    page = visit()
    good = {"schema": "dola.trace/1", "dola": "0", "tokens": []}
    files = {
        "cut.jsonl": json.dumps(good)[:20],
        "later.jsonl": json.dumps({**good, "schema": "dola.trace/9"}),
        "other.json": "[1, 2]",
    }
    words = {"cut.jsonl": "not a whole JSON object", "later.jsonl": "has schema 'dola.trace/9'", "other.json": "no trace"}
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        page.locator("input[type=file]").set_input_files(tmp_path / name)
        page.get_by_role("alert").filter(has_text=words[name]).wait_for()
    generate(page, "word " * 120)
    page.get_by_role("alert").filter(has_text="Allowed: 80").wait_for()
    model = page.get_by_label("Model")
    model.fill("./nowhere")
    model.press("Enter")
    generate(page)
    page.get_by_role("alert").filter(has_text="The folder './nowhere' does not exist").wait_for()
    model.fill("smollm2")
    model.press("Enter")
    generate(page, tokens=3)
    wait_for(page, "Done: 3 and 3")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(visit, scheme):
    page = visit(color_scheme=scheme)
    assert serious_violations(page) == []
    page.get_by_role("button", name="More settings").click()
    generate(page, tokens=3)
    wait_for(page, "Done")
    assert serious_violations(page) == []
    generate(page, " ")
    page.get_by_role("alert").wait_for()
    assert serious_violations(page) == []


def test_it_fits_a_telephone(visit):
    page = visit(viewport={"width": 390, "height": 844})
    generate(page, tokens=3)
    wait_for(page, "Done")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("iframe").evaluate("frame => frame.scrollIntoView()")  # out of sight it does not draw
    layers(page).locator("td.chosen").first.scroll_into_view_if_needed()
    assert layers(page).locator("html").evaluate("html => html.scrollWidth <= innerWidth")


def test_the_space_serves_its_page(smollm2):
    if find_spec("gradio") is None:
        lacking(f"gradio is not installed: {install_line('ui')}")
    app = Path(__file__).parents[2] / "hub" / "space" / "app.py"
    asked = environment(MODEL="smollm2", GRADIO_SERVER_NAME="127.0.0.1", GRADIO_SERVER_PORT="0", HF_HUB_OFFLINE="1")
    process = subprocess.Popen([sys.executable, app], stdout=subprocess.PIPE, text=True, env=asked, preexec_fn=heed_ctrl_c)
    try:
        line = next(line for line in process.stdout if line.startswith("serving"))
        assert line.startswith("serving smollm2 at http://127.0.0.1:")
        with urlopen(line.split()[-1]) as answer:
            page = answer.read().decode()
        assert "answers up to 64" in page
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0
