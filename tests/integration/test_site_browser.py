"""The built site in a real browser: accessible, usable by keyboard, searchable, and without requests to other hosts."""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import chromium, serious_violations

HTML = Path(__file__).parents[2] / "build" / "site" / "html"
PAGES = ("index.html", "quickstart.html", "api.html", "cli.html", "evaluation.html", "method.html")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        """Nothing: the test prints nothing."""


@pytest.fixture(scope="module")
def site():
    """The address of the built site."""
    if not HTML.is_dir():
        pytest.skip("the site is not built: make site")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=HTML)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def tab(browser, site):
    """A page whose requests to any other host are noted, and fail."""
    context = browser.new_context(viewport={"width": 1300, "height": 900}, bypass_csp=True, reduced_motion="reduce")
    elsewhere = []
    context.route(lambda url: not url.startswith(site), lambda route: (elsewhere.append(route.request.url), route.abort()))
    yield context.new_page()
    context.close()
    assert not elsewhere


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1300, 390])
def test_pages_are_accessible(tab, site, scheme, width):
    tab.emulate_media(color_scheme=scheme)
    tab.set_viewport_size({"width": width, "height": 800})
    for page in PAGES:
        tab.goto(f"{site}/{page}")
        assert not serious_violations(tab), page
        assert tab.evaluate("document.documentElement.scrollWidth") <= width, page


def test_search_finds_a_function_by_keyboard(tab, site):
    tab.goto(f"{site}/index.html")
    tab.wait_for_function("performance.getEntriesByType('resource').some(each => each.name.endsWith('search.json'))")
    tab.keyboard.press("Control+k")
    tab.get_by_placeholder("Search").wait_for()
    tab.keyboard.type("DoLaConfig", delay=20)
    tab.get_by_role("option", selected=True).and_(tab.locator("[href$='#dola.DoLaConfig']")).wait_for()
    tab.keyboard.press("Enter")
    tab.wait_for_url("**/api.html*#dola.DoLaConfig")


def test_tab_reaches_the_content(tab, site):
    tab.goto(f"{site}/index.html")
    tab.keyboard.press("Tab")
    assert "Skip to content" in tab.evaluate("document.activeElement.textContent")
