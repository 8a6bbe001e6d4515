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
    """A row for each method, a column for each model; what they have in common is above the table."""
    costs = [cost for kind in BUILT_IN.values() for cost in kind.costs]
    models = list(dict.fromkeys(_model(cost.where) for cost in costs))
    [common] = {cost.where.partition(", ")[2] for cost in costs}
    rows = [
        f"Time per token, as a multiple of greedy decoding's ({common}):",
        "",
        f"| method | {' | '.join(models)} |",
        f"|---|{'---|' * len(models)}",
    ]
    for kind in BUILT_IN.values():
        times = {_model(cost.where): f"{cost.times:.2f}" for cost in kind.costs}
        rows.append(f"| {kind.label()} | {' | '.join(times.get(model, 'not measured') for model in models)} |")
    return "\n".join(rows) + "\n"


def _model(where: str) -> str:
    return where.partition(", ")[0]


def page() -> str:
    """The page with a fresh table."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    return f"{before}{BEGIN}\n{table()}\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
