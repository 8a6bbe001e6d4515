"""The table of costs in docs/which-method.md, from the settings of the methods: no page has a figure of its own.

python tests/costs_page.py        # writes it
"""

from __future__ import annotations

from pathlib import Path

from dola.methods.registry import BUILT_IN

PAGE = Path(__file__).parents[1] / "docs" / "which-method.md"
BEGIN = "<!-- costs: made by tests/costs_page.py from the methods' settings -->\n"
END = "<!-- end of costs -->\n"


def table() -> str:
    """A row for each measurement."""
    rows = ["| method | time of a token, greedy decoding's being 1 | measured on |", "|---|---|---|"]
    for kind in BUILT_IN.values():
        rows += [f"| {kind.label()} | {cost.times:.2f} | {cost.where} |" for cost in kind.costs]
        rows += [] if kind.costs else [f"| {kind.label()} | not measured yet | |"]
    return "\n".join(rows) + "\n"


def page() -> str:
    """The page with a fresh table."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
