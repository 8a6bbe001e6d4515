"""The shell commands of README and pages that are not marked "not run", run as a reader pastes them: `make readme`.

A block that would take long, or needs what the project does not have, is marked above it: `<!-- not run: reason -->`.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<code>.*?)^```", re.MULTILINE | re.DOTALL
)


def blocks(page: Path, language: str, *, run: bool = True) -> list[str]:
    """The code of a page in this language: that which is run, or that which is not."""
    found = BLOCK.finditer(page.read_text("utf-8"))
    return [match["code"] for match in found if match["language"] == language and bool(match["reason"]) != run]


def commands(code: str) -> Iterator[str]:
    """Its lines that call dola or write its input, joined where they are continued. Other targets run those that install."""
    for line in code.replace("\\\n", " ").splitlines():
        if re.search(r"(^|\| *)dola |^printf ", line):
            yield line.strip()


def main() -> None:
    """Run each command once, in an empty folder; stop at the first that fails."""
    lines = dict.fromkeys(line for page in PAGES for code in blocks(page, "sh") for line in commands(code))
    with tempfile.TemporaryDirectory() as folder:
        for line in lines:
            print(f"$ {line}", flush=True)
            if code := subprocess.run(["bash", "-c", line], cwd=folder, check=False).returncode:
                sys.exit(code)


if __name__ == "__main__":
    main()
