"""The page of a trace in a real browser: opened from disk with the network off, read, pointed at, walked by keyboard.

Needs Chromium and the extra `browser`; skipped without them (`browser.py`).
"""

import dataclasses
import json
import math

import pytest
from browser import chromium, serious_violations
from families import tiny
from words import word_tokenizer

import dola
from dola.plot.html import page as page_of
from dola.text.token_text import visible


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def traces():
    model, tokenizer = tiny(), word_tokenizer()
    ways = [dola.trace(model, tokenizer, [5, 17, 200, 33], "high", generate=6, decode=decode) for decode in ("greedy", "dola")]
    wicked = "<img src=x onerror='window.hacked = 1'><script>window.hacked = 1</script>"
    for trace in ways:
        trace.texts[trace.tokens[0].top[2][0][0]] = wicked
    return ways


@pytest.fixture
def open_page(browser, tmp_path):
    """Opens HTML from disk, offline. Any other request and any console error fails the test."""
    contexts, complaints, pages = [], [], []

    def opened(html, **settings):
        path = tmp_path / "trace.html"
        path.write_text(html, encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **settings})
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(allowed(path)) else complaints.append(request.url))
        page.goto(path.as_uri())
        contexts.append(context)
        pages.append(page)
        return page

    yield opened
    assert complaints == []
    assert [page.evaluate("window.hacked") for page in pages] == [None] * len(pages)
    for context in contexts:
        context.close()


def allowed(path):
    return path.as_uri(), "data:", "about:srcdoc"


@pytest.fixture
def opened(open_page, traces):
    return open_page(page_of(traces))


def cell(page, number, index, layer):
    return page.locator("section").nth(number).locator(f'td[data-index="{index}"][data-layer="{layer}"]')


def rows_of(page, number, table):
    """The texts of a table's body, row by row."""
    rows = page.locator("section").nth(number).locator(f"{table} tbody tr")
    return [row.locator("th, td").all_text_contents() for row in rows.all()]


def top_of(page, number):
    """The likeliest tokens that the page shows: text and probability."""
    return [tuple(row[:2]) for row in rows_of(page, number, "table.top")]


def percent(share):
    if share >= 1e-5:
        return f"{share:.1%}" if share >= 0.001 else f"{share:.3%}"
    return f"{share:.0e}".replace("e-0", "e-")


def name(trace, token):
    text = visible(trace.text(token))
    return text if text.strip() else f'"{text}"'


def as_shown(trace, layer_top):
    return [(name(trace, token), percent(share)) for token, share in layer_top]


def test_every_cell_shows_the_traces_own_top_tokens(opened, traces):
    for number, trace in enumerate(traces):
        saved = json.loads(trace.to_json())
        assert saved["tokens"][0]["top"]
        for index, token in enumerate(saved["tokens"]):
            for layer in range(trace.num_layers):
                cell(opened, number, index, layer).hover()
                assert top_of(opened, number) == as_shown(trace, token["top"][layer])
                here = opened.locator("section").nth(number).locator(".look").text_content()
                assert f"Layer {layer} after" in here
                shown = float(here.partition(" nats from the last layer")[0].split('"')[-1])
                assert shown == pytest.approx(token["divergence"][layer], rel=6e-3, abs=1e-12)
                follows = f": number {token['rank'][layer]:,} here, {percent(token['probability'][layer])}."
                assert follows in here


def test_two_traces_are_side_by_side(opened, traces):
    first, second = (opened.locator("section").nth(number).bounding_box() for number in (0, 1))
    assert first["y"] == second["y"]
    assert second["x"] >= first["x"] + first["width"]
    assert "tokens of greedy decoding" in opened.locator("h2").nth(0).text_content()
    assert "tokens that DoLa chose" in opened.locator("h2").nth(1).text_content()


def test_on_a_narrow_screen_traces_are_below_each_other(open_page, traces):
    page = open_page(page_of(traces), viewport={"width": 390, "height": 800})
    first, second = (page.locator("section").nth(number).bounding_box() for number in (0, 1))
    assert second["y"] >= first["y"] + first["height"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


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
    assert section.locator("tr[aria-selected=true]").count() == 1
    cell(opened, 1, 4, 0).hover()
    assert section.locator(".kept h3").text_content() == "Token 3"
    opened.keyboard.press("Escape")
    assert section.locator("tr[aria-selected=true]").count() == 0
    cell(opened, 1, 5, 0).hover()
    assert section.locator(".kept h3").text_content() == "Token 6"


def slide(page, number, strength):
    slider = page.locator("section").nth(number).locator("input[type=range]")
    slider.evaluate("(range, value) => { range.value = value; range.dispatchEvent(new Event('input')); }", strength)


@pytest.mark.parametrize("known", [True, False], ids=["log-probabilities", "a file of an earlier version"])
def test_the_slider_draws_the_choices_of_any_strength(open_page, traces, known):
    trace = traces[1]
    if not known:
        tokens = [
            dataclasses.replace(
                each, plausible=tuple(dataclasses.replace(member, log_p=None, log_q=None) for member in each.plausible)
            )
            for each in trace.tokens
        ]
        settings = {name: value for name, value in trace.settings.items() if name not in ("strength", "scores")}
        trace = dataclasses.replace(trace, tokens=tuple(tokens), settings=settings)
    opened = open_page(page_of([trace]))
    column = opened.locator("table.map tbody td.name:last-child")
    recorded = [name(trace, token.dola_choice) for token in trace.tokens]
    assert column.all_text_contents() == recorded
    index = max(range(6), key=lambda index: trace.tokens[index].plausible_count)
    cell(opened, 0, index, 3).click()
    for strength in (0, 0.5, 2, 1):
        slide(opened, 0, strength)
        scores = [
            {
                each.id: math.log(each.probability[-1]) - strength * math.log(each.probability[token.layer])
                for each in token.plausible
            }
            for token in trace.tokens
        ]
        assert column.all_text_contents() == [name(trace, max(of, key=of.__getitem__)) for of in scores]
        shown = [float(row[3]) for row in rows_of(opened, 0, "table.members")]
        assert shown == pytest.approx(sorted(scores[index].values(), reverse=True), abs=0.006)
        said = opened.locator(".explanation").text_content()
        assert said == trace.explain(index) if strength == 1 else f"At strength {strength:.2f} DoLa would choose" in said
    assert column.all_text_contents() == recorded
    assert opened.locator(".strength .number").text_content() == "1.00"


def test_a_kept_token_shows_its_candidates_and_their_probabilities(opened, traces):
    trace = traces[1]
    index = max(range(6), key=lambda index: trace.tokens[index].plausible_count)
    token = trace.tokens[index]
    assert 1 < token.plausible_count == len(token.plausible)
    cell(opened, 1, index, 3).click()
    likely = sorted(token.plausible, key=lambda member: -member.probability[-1])
    expected = [
        [name(trace, member.id), percent(member.probability[token.layer]), percent(member.probability[-1])]
        for member in token.plausible
    ]
    members = rows_of(opened, 1, "table.members")
    assert [row[:3] for row in members] == expected
    assert [float(row[3]) for row in members] == pytest.approx([each.contrast for each in token.plausible], abs=0.006)
    places = [f"{likely.index(member) + 1} → {place}" for place, member in enumerate(token.plausible, 1)]
    assert [row[4] for row in members] == places
    drawn = token.plausible[:5]
    lines = opened.locator("section").nth(1).locator("svg polyline")
    assert lines.count() == len(drawn)
    for line, member in zip(lines.all(), drawn, strict=True):
        heights = [-float(point.split(",")[1]) for point in line.get_attribute("points").split()]
        order = sorted(range(1, 7), key=member.probability.__getitem__)
        assert [heights[layer] for layer in order] == sorted(heights[1:]), "likelier is higher"
    opened.locator("section").nth(1).locator("details.layers summary").click()
    numbers = rows_of(opened, 1, "details.layers")
    assert [row[0].split(",")[0] for row in numbers] == [str(layer) for layer in range(6, -1, -1)]
    for row in numbers:
        assert row[1:] == [percent(member.probability[int(row[0].split(",")[0])]) for member in drawn]


def test_it_can_be_walked_by_keyboard(opened, traces):
    def focused():
        data = opened.evaluate("({...document.activeElement.dataset})")
        return int(data["index"]), int(data["layer"])

    opened.keyboard.press("Tab")
    trace = traces[0]
    start = (trace.telling(), trace.tokens[trace.telling()].layer)
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
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.type") == "range"
    opened.keyboard.press("Tab")
    assert opened.evaluate("document.activeElement.tagName") == "SUMMARY"
    opened.keyboard.press("Enter")
    assert opened.locator("details.layers").nth(0).get_attribute("open") is not None


def test_it_is_a_table_to_assistive_technology(opened, traces):
    assert opened.get_by_role("grid").count() == 2
    assert opened.get_by_role("grid").get_by_role("rowheader").count() == 12
    grid = opened.get_by_role("grid")
    assert grid.get_by_role("columnheader", name="layer 3, a candidate", exact=True).count() == 2
    assert grid.get_by_role("columnheader", name="layer 2", exact=True).count() == 2
    assert opened.get_by_role("status").count() == 2
    assert opened.get_by_role("img", name="Probability of the first").count() == 2


def test_walking_speaks_of_a_layer_and_pinning_of_a_token(opened):
    """Otherwise a screen reader would read all candidates at every step."""
    kept = opened.locator(".kept").first
    cell(opened, 0, 1, 1).focus()
    assert kept.get_attribute("aria-live") == "off"
    opened.keyboard.press("Enter")
    assert kept.get_attribute("aria-live") == "polite"
    opened.keyboard.press("Escape")
    assert kept.get_attribute("aria-live") == "off"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_follows_the_colour_scheme(opened, scheme):
    opened.emulate_media(color_scheme=scheme)
    red, green, blue = opened.evaluate(
        "getComputedStyle(document.documentElement).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    )
    assert (red + green + blue > 600) == (scheme == "light")


@pytest.mark.parametrize("width", [1400, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, traces, scheme, width):
    """axe-core's script is put in from outside, which the page's own security policy forbids: that is off here."""
    page = open_page(page_of(traces), bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 800})
    cell(page, 0, 1, 2).click()
    page.locator("details.layers summary").first.click()
    assert serious_violations(page) == []


def test_axe_would_find_something_serious(open_page):
    page = open_page('<!DOCTYPE html><html lang="en"><title>x</title><main><h1>x</h1><input></main>', bypass_csp=True)
    assert any(found.startswith("label (critical)") for found in serious_violations(page))


def test_a_long_prompt_is_a_box_that_tab_reaches(open_page, traces):
    long = dataclasses.replace(traces[0], prompt="word " * 2000)
    page = open_page(page_of([long]), bypass_csp=True)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "prompt"
    assert serious_violations(page) == []


def test_a_notebooks_frame_works_alike(open_page, traces):
    """Sandboxed, and with the page's own security policy."""
    page = open_page(f'<!DOCTYPE html><html lang="en"><title>x</title>{traces[1]._repr_html_()}')
    frame = page.frame_locator("iframe")
    frame.locator('td[data-index="2"][data-layer="4"]').click()
    assert frame.locator(".kept h3").text_content() == "Token 3"
    first = frame.locator("table.top tbody tr").first.locator("td").all_text_contents()
    assert tuple(first[:2]) == as_shown(traces[1], traces[1].tokens[2].top[4])[0]
    assert page.evaluate("document.querySelector('iframe').contentDocument") is None


def test_a_method_that_uses_all_layers_marks_none_and_is_called_by_its_name(open_page):
    trace = dola.trace(tiny(), word_tokenizer(), [5, 17, 200, 33], dola.DeLTaConfig(layers="all"), generate=3)
    page = open_page(page_of([trace]))
    assert page.locator("td.chosen").count() == 0
    assert page.locator("#used").is_hidden()
    assert page.locator("#method-word").text_content() == "DeLTa"
    assert page.locator("table.map thead th").last.text_content() == "DeLTa"
    assert page.locator("input[type=range]").count() == 0
    for number in range(len(trace.tokens)):
        page.locator("table.map tbody th").nth(number).click()
        assert page.locator(".kept h3").text_content() == f"Token {number + 1}"
    shown = page.locator("body").inner_text()
    assert not [word for word in ("DoLa", "premature", "contrast", "undefined", "null", "NaN") if word in shown]
    page.keyboard.press("Tab")
    assert page.locator(".look h3").text_content().startswith("Layer ")
