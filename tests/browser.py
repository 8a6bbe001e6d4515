"""Real headless Chromium for tests of pages, and axe-core's verdict on them.

Skipped where there is no browser; with DOLA_REQUIRE_BROWSER=1, which `make test-browser` sets, that is a failure.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, NoReturn

import pytest

from dola.installed.hints import install_line

NAMES = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")


def lacking(what: str) -> NoReturn:
    """Skip, or fail where a browser is required."""
    if os.environ.get("DOLA_REQUIRE_BROWSER") == "1":
        pytest.fail(f"DOLA_REQUIRE_BROWSER=1, and {what}", pytrace=False)
    pytest.skip(what)


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser that Playwright drives, the machine's own Chromium."""
    for package in ("playwright", "axe_playwright_python"):
        if find_spec(package) is None:
            lacking(f"{package} is not installed: {install_line('browser')}")
    path = next((found for name in NAMES if name and (found := shutil.which(name))), None)
    if path is None:
        lacking("there is no Chromium on the path: apt-get install chromium, or CHROMIUM=/path/to/it")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])  # tests may run as root
        yield browser
        browser.close()


def serious_violations(page: Any) -> list[str]:
    """What axe-core finds on a page that is serious or critical. The page's context needs `bypass_csp=True`."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response
    assert found["passes"], "axe-core did not run"
    return [
        f"{each['id']} ({each['impact']}): {node['target']} {node['html'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
