"""The page of a trace in a real browser: opened from disk with the network off, read, walked by keyboard.

Needs Chromium (`chromium`, `google-chrome` or $CHROMIUM on the path) and the package playwright; skipped without them.
"""

import os
import shutil

import pytest
from families import tiny
from words import word_tokenizer

import dola
from dola.plot.html import page as page_of
from dola.token_text import visible

BROWSERS = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = next((found for name in BROWSERS if name and (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium on the path")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # tests may run as root
        yield started
        started.close()


@pytest.fixture(scope="module")
def traces():
    model, tokenizer = tiny(), word_tokenizer()
    ways = [dola.trace(model, tokenizer, [5, 17, 200, 33], "high", generate=6, decode=decode) for decode in ("greedy", "dola")]
    wicked = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"
    for trace in ways:
        trace.texts[trace.tokens[0].top[2][0][0]] = wicked
    return ways


@pytest.fixture
def opened(browser, traces, tmp_path):
    """The page, and what it complained of or asked the network for."""
    path = tmp_path / "trace.html"
    path.write_text(page_of(traces), encoding="utf-8")
    context = browser.new_context(offline=True, viewport={"width": 1400, "height": 900})
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url) if request.url != path.as_uri() else None)
    page.goto(path.as_uri())
    yield page
    assert complaints == []
    assert page.evaluate("window.hacked") is None
    context.close()


def cell(page, number, index, layer):
    return page.locator("section").nth(number).locator(f'td[data-index="{index}"][data-layer="{layer}"]')


def top_of(page, number):
    """The likeliest tokens that the page shows: text and probability in percent."""
    rows = page.locator("section").nth(number).locator("table.top tbody tr")
    shown = []
    for row in rows.all():
        texts = row.locator("td").all_text_contents()
        shown.append((texts[0], texts[1]))
    return shown


def as_shown(trace, layer_top):
    def percent(share):
        return f"{share:.1%}" if share >= 0.001 else f"{share:.3%}" if share >= 1e-5 else "<0.001%"

    texts = [visible(trace.text(token)) for token, _ in layer_top]
    return [(text if text.strip() else f'"{text}"', percent(share)) for text, (_, share) in zip(texts, layer_top, strict=True)]


def test_a_cell_shows_the_traces_own_top_tokens(opened, traces):
    saved = [dola.LayerTrace.from_json(trace.to_json()) for trace in traces]
    for number, index, layer in ((0, 0, 2), (0, 3, 5), (1, 5, 0)):
        cell(opened, number, index, layer).hover()
        assert top_of(opened, number) == as_shown(saved[number], saved[number].tokens[index].top[layer])
        assert f"Layer {layer} after" in opened.locator("section").nth(number).locator(".look h3").text_content()


def test_two_traces_stand_side_by_side(opened, traces):
    first, second = (opened.locator("section").nth(number).bounding_box() for number in (0, 1))
    assert first["y"] == second["y"]
    assert second["x"] >= first["x"] + first["width"]
    assert "tokens of greedy decoding" in opened.locator("h2").nth(0).text_content()


def test_the_chosen_layer_is_marked(opened, traces):
    for number, trace in enumerate(traces):
        for index, token in enumerate(trace.tokens):
            chosen = opened.locator("section").nth(number).locator(f'td.chosen[data-index="{index}"]')
            assert chosen.get_attribute("data-layer") == str(token.layer)
            assert "premature layer" in chosen.get_attribute("aria-label")


def test_a_click_keeps_a_token_until_escape(opened, traces):
    section = opened.locator("section").nth(1)
    cell(opened, 1, 2, 3).click()
    assert section.locator(".kept h3").text_content() == "Token 3"
    assert section.locator(".explanation").text_content() == traces[1].explain(2)
    members = section.locator("table.members tbody tr")
    assert members.count() == len(traces[1].tokens[2].plausible)
    contrasts = [float(row.locator("td").last.text_content()) for row in members.all()]
    assert contrasts == pytest.approx([each.contrast for each in traces[1].tokens[2].plausible], abs=0.006)
    assert section.locator("svg polyline").count() == min(5, members.count())
    cell(opened, 1, 4, 0).hover()
    assert section.locator(".kept h3").text_content() == "Token 3"
    opened.keyboard.press("Escape")
    cell(opened, 1, 5, 0).hover()
    assert section.locator(".kept h3").text_content() == "Token 6"


def test_it_can_be_walked_by_keyboard(opened, traces):
    def focused():
        data = opened.evaluate("({...document.activeElement.dataset})")
        return int(data["index"]), int(data["layer"])

    opened.keyboard.press("Tab")
    trace = traces[0]
    start = (trace.telling(), trace.tokens[trace.telling()].layer)
    for _ in range(3):  # a box that scrolls may come first
        if opened.evaluate("document.activeElement.tagName") == "TD":
            break
        opened.keyboard.press("Tab")
    assert focused() == start
    assert opened.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    opened.keyboard.press("Home")
    assert focused() == (start[0], 0)
    opened.keyboard.press("ArrowRight")
    assert focused() == (start[0], 1)
    opened.keyboard.press("PageDown")
    assert focused() == (len(trace.tokens) - 1, 1)
    opened.keyboard.press("ArrowDown")
    assert focused() == (len(trace.tokens) - 1, 1)
    assert top_of(opened, 0) == as_shown(trace, trace.tokens[-1].top[1])
    opened.keyboard.press("Enter")
    assert opened.locator("section").nth(0).locator("tr.pinned").count() == 1
    assert opened.evaluate(
        "[...document.querySelectorAll('table.map')].every(t => t.querySelectorAll('[tabindex=\"0\"]').length === 1)"
    )


def test_it_is_a_table_to_assistive_technology(opened, traces):
    assert opened.get_by_role("grid").count() == 2
    assert opened.get_by_role("rowheader").count() == 12
    assert opened.get_by_role("grid").get_by_role("columnheader", name="layer 3", exact=True).count() == 2
    assert opened.get_by_role("status").count() == 2
    assert opened.get_by_role("img", name="Probability of the first").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_colour_scheme(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    red, green, blue = opened.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue > 600) == (scheme == "light")
