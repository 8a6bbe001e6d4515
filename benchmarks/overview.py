"""The first table of docs/evaluation.md: for each model and task the best row and its verdict, from the results in results/.

python benchmarks/overview.py
"""

from __future__ import annotations

import json
from pathlib import Path

from dola.evidence.verdict import judge

RESULTS = Path(__file__).parent / "results" / "evaluation"
NAMES = {"smollm2": "SmolLM2-135M", "gemma3-270m": "Gemma 3 270M"}


def line(path: Path) -> str | None:
    """A row of the table; None for a file that is no report."""
    report = json.loads(path.read_text())
    if not report.get("ways"):
        return None
    metric = report["metrics"][0]
    rows = {
        way["name"]: way["items"][metric]
        for way in report["ways"]
        if not way["control"] and way["name"] != "vanilla" and not way["name"].startswith("reference")  # how others counted
    }
    [vanilla] = [way["items"][metric] for way in report["ways"] if way["name"] == "vanilla"]
    found = judge(vanilla, rows)
    best = max(found, key=lambda name: found[name].difference)
    counts = [each.verdict.value for each in found.values()]
    others = ", ".join(f"{counts.count(verdict)} {verdict}" for verdict in dict.fromkeys(counts))
    low, high = (100 * end for end in (found[best].low, found[best].high))
    penalty = [way["items"][metric] for way in report["ways"] if way["name"].startswith("vanilla, penalty")]
    beside = [100 * (sum(rows[best]) - sum(values)) / len(values) for values in penalty]
    cells = (
        report["task"],
        NAMES[report["model"]],
        f"{len(vanilla)} of {report['total']}",
        f"{100 * sum(vanilla) / len(vanilla):.1f}",
        f"{best}: {100 * found[best].difference:+.1f} ({low:+.1f} to {high:+.1f})",
        " ".join(f"{points:+.1f}" for points in beside),
        found[best].verdict.value,
        others,
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    best = "best row, against vanilla | against vanilla with the same penalty | its verdict"
    print(f"| task | model | items | vanilla | {best} | all judged rows |")
    print("|---|---|---|---|---|---|---|---|")
    for found in sorted(filter(None, map(line, RESULTS.glob("*.json")))):
        print(found)


if __name__ == "__main__":
    main()
