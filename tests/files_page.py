"""The table of tests/README.md: which file holds which promise, by the first line of each file.

python tests/files_page.py        # writes it
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent
README = HERE / "README.md"
BEGIN, END = "<!-- files: made by files_page.py -->\n", "<!-- end of files -->\n"


def table() -> str:
    """Rows in the order of folders and names."""
    rows = ["| file | promise |\n|---|---|\n"]
    for file in sorted(HERE.glob("*/test_*.py")):
        promise = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").partition("\n")[0].replace("|", "\\|")
        rows.append(f"| `{file.relative_to(HERE)}` | {promise} |\n")
    return "".join(rows)


def page() -> str:
    """The README with a fresh table."""
    before, _, rest = README.read_text("utf-8").partition(BEGIN)
    return before + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    README.write_text(page(), "utf-8")
