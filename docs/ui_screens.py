"""The picture of `dola ui` in the docs: runs it, asks SmolLM2 a question in Chromium, and takes the screen.

    python docs/ui_screens.py

Needs the extras `cli`, `ui` and `browser`, and Chromium.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from screens import QUESTION, SCREENS, chromium, shrink

COMMAND = [sys.executable, "-c", "from dola.cli import main; main()", "ui", "--port", "0"]


def screen(browser: Any, url: str, path: Path, *, width: int, scheme: str) -> None:
    """Ask, wait for the answers, look at a layer, and keep what is seen."""
    page = browser.new_context(viewport={"width": width, "height": 1000}, color_scheme=scheme).new_page()
    page.set_default_timeout(300_000)
    page.goto(url)
    page.get_by_label("Prompt").fill(QUESTION)
    number = page.get_by_role("spinbutton").first
    number.fill("20")
    number.press("Tab")
    page.get_by_role("button", name="Generate").click()
    page.wait_for_function("document.querySelector('#message').innerText.startsWith('Done')")
    frame = page.frame_locator("iframe")
    frame.locator("td.chosen").first.wait_for()
    page.set_viewport_size({"width": width, "height": page.evaluate("document.documentElement.scrollHeight")})
    page.wait_for_timeout(1000)  # the frame draws what has come into sight
    page.screenshot(path=path)
    shrink(path)
    print(path, f"{path.stat().st_size / 1000:.0f} kB")


def main() -> None:
    """Write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", type=Path, metavar="FOLDER", help="write all four variants to this folder, instead")
    parser.add_argument("--model", default="smollm2")
    arguments = parser.parse_args()
    folder = arguments.all
    process = subprocess.Popen([*COMMAND, "--model", arguments.model], stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().split()[-1]
    try:
        with chromium() as browser:
            if folder is None:
                screen(browser, url, SCREENS / "ui.png", width=1400, scheme="light")
            else:
                for width, scheme in ((1400, "light"), (1400, "dark"), (390, "light"), (390, "dark")):
                    screen(browser, url, folder / f"ui-{width}-{scheme}.png", width=width, scheme=scheme)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


if __name__ == "__main__":
    main()
