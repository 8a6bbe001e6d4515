"""The page of `dola eval --html` in a real browser: opened from disk with the network off, read, searched, used by keyboard.

Needs Chromium and the extra `browser`; skipped without them (`browser.py`).
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from browser import chromium, serious_violations
from families import tiny
from words import word_tokenizer

import dola
from dola.evidence.html_page import page as page_of
from dola.evidence.item_traces import AnswerTrace
from dola.evidence.report import make_report
from dola.evidence.row_answers import Chosen
from dola.evidence.sample import Sample
from dola.evidence.ways import Role, Way
from dola.tasks import TASKS
from dola.tasks.items import ChoiceItem

WICKED = "</script><script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'> \"quoted\" 'twice'"
MASS = {
    "vanilla": [0.9] * 30 + [0.2] * 30,
    "DoLa high, <b>": [0.8] * 20 + [0.1] * 10 + [0.7] * 5 + [0.2] * 25,
    "random layer": [0.3] * 60,
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def report():
    task = TASKS["memotrap"]
    items = [
        ChoiceItem(
            str(i),
            f"Say {i} {WICKED if i == 3 else ''}",
            (f" right{i}", f" wrong{WICKED}"),
            (True, False),
            best=0,
            group=f"g{i % 3}",
        )
        for i in range(60)
    ]
    roles = {"vanilla": Role.VANILLA, "random layer": Role.CONTROL}
    ways = [Way(name, f"what {name} is", role=roles.get(name, Role.METHOD)) for name in MASS]
    values = {name: {metric.name: [float(value > 0.5) for value in of] for metric in task.metrics} for name, of in MASS.items()}
    texts = {
        name: [f"right{i}" if value > 0.5 else f"wrong{WICKED}" for i, value in enumerate(of)] for name, of in MASS.items()
    }
    chosen = {name: Chosen(texts[name], of) for name, of in MASS.items()}
    model = SimpleNamespace(dtype="torch.float32")
    found = make_report(Sample(task, items, [], 60), model, WICKED, ways, values, settings={}, chosen=chosen)
    read = dola.trace(tiny(), word_tokenizer(), [5, 17, 200, 33], "high")
    read.texts[read.tokens[0].top[2][0][0]] = WICKED
    row = "DoLa high, <b>"
    return replace(found, traces=[AnswerTrace("3", each, row, read, same=each == row) for each in ("vanilla", row)])


@pytest.fixture
def open_page(browser, report, tmp_path):
    """Opens the page offline. Any other request fails the test, and so does text that runs as code."""
    contexts, complaints, pages = [], [], []

    def opened(**settings):
        path = tmp_path / "report.html"
        path.write_text(page_of(report), encoding="utf-8")
        context = browser.new_context(**{"viewport": {"width": 1300, "height": 900}, **settings})
        context.set_offline(True)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: None if request.url in (path.as_uri(), "about:srcdoc") else complaints.append(request.url),
        )
        page.goto(path.as_uri())
        contexts.append(context)
        pages.append(page)
        return page

    yield opened
    assert complaints == []
    running = [page for page in pages if page.evaluate("true")]
    assert [page.evaluate("window.hacked") for page in running] == [None] * len(running)
    for context in contexts:
        context.close()


def test_the_headline_the_verdicts_the_table_and_the_plot(open_page, report):
    page = open_page()
    assert page.locator("h1").text_content() == report.verdict
    assert page.locator(".verdicts li").count() == 1
    assert page.locator("section table tbody tr").count() == len(report.ways) + 1
    assert page.locator("main > section table thead th").first.text_content() == "Row"
    strips = page.locator(".plot svg")
    assert strips.count() == 2
    line, dot = strips.first.locator(".interval").bounding_box(), strips.first.locator("circle").bounding_box()
    assert line["x"] <= dot["x"] + dot["width"] / 2 <= line["x"] + line["width"]
    for section in report.details:
        assert page.get_by_role("heading", name=section.title, exact=True).count() == 1


def test_items_are_searched_filtered_and_opened_by_keyboard(open_page):
    page = open_page()
    assert page.locator("#count").text_content() == "60 of 60 items"
    assert page.locator("details.item").count() == 25
    page.locator("#more").click()
    assert page.locator("details.item").count() == 50
    page.locator("#show").select_option("worse")
    assert page.locator("#count").text_content() == "10 of 60 items"
    page.locator("#show").select_option("better")
    assert page.locator("#count").text_content() == "5 of 60 items"
    page.locator("#show").select_option("all")
    page.locator("#search").fill("QUOTED\" 'twice'")
    assert page.locator("#count").text_content() == "60 of 60 items"  # it is in all wrong answers
    page.locator("#search").fill("right3")
    page.locator("details.item summary").first.focus()
    page.keyboard.press("Enter")
    opened = page.locator("details.item[open]")
    assert WICKED in opened.locator("p.text").first.text_content()
    rows = opened.locator("tbody tr")
    assert rows.count() == 3
    assert rows.nth(0).locator("td").all_text_contents() == ["right3", "1", "90%"]
    assert rows.nth(2).locator("td").first.text_content() == f"wrong{WICKED}"


@pytest.mark.parametrize("width", [1300, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(open_page, scheme, width):
    page = open_page(bypass_csp=True, color_scheme=scheme, viewport={"width": width, "height": 800})
    page.locator("details.item summary").first.click()
    assert serious_violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_without_a_script_all_but_the_items_is_there(open_page, report):
    page = open_page(java_script_enabled=False)
    assert page.locator("h1").text_content() == report.verdict
    assert page.locator("#items").is_hidden()


@pytest.mark.parametrize("width", [1300, 390])
def test_a_traced_item_shows_its_layers_in_a_frame(open_page, report, width):
    page = open_page(bypass_csp=True, viewport={"width": width, "height": 800})
    page.locator("#show").select_option("traced")
    assert page.locator("#count").text_content() == "1 of 60 items"
    page.locator("details.item summary").click()
    page.get_by_role("button", name="Show what each layer says").press("Enter")
    frame = page.frame_locator("iframe")
    headings = frame.locator("main h2")
    headings.nth(1).wait_for()
    assert headings.all_text_contents() == [
        'The answer of "vanilla" (decoded alone, which gave another text than in its batch), layers read as "DoLa high, <b>" '
        "reads them",
        'The answer of "DoLa high, <b>", layers read as "DoLa high, <b>" reads them',
    ]
    tokens = report.traces[0].trace.tokens
    assert frame.locator("section").first.locator("table.map tbody tr").count() == len(tokens)
    box = page.locator("iframe").bounding_box()
    page.wait_for_function("document.querySelector('iframe').style.height !== ''")
    inside = page.frames[1].evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert inside[0] <= inside[1]
    assert box["width"] <= width
    assert serious_violations(page) == []
    assert page.frames[1].evaluate("window.hacked") is None


def test_a_page_without_traces_is_smaller(report):
    assert len(page_of(replace(report, traces=[]))) < len(page_of(report)) - 20_000
