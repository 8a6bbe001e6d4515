"""The first table of docs/evaluation.md: for each model and task the best row and its verdict, from the results in results/.
And a sentence on the rows of DoLa's default.

python benchmarks/overview.py
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from dola.evidence.verdict import judge

RESULTS = Path(__file__).parent / "results" / "evaluation"
DEFAULT = "DoLa high"
NAMES = {"smollm2": "SmolLM2-135M", "gemma3-270m": "Gemma 3 270M"}


def line(report: dict[str, Any]) -> str:
    """A row of the table."""
    metric = report["metrics"][0]
    vanilla, rows = judged(report)
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


def judged(report: dict[str, Any]) -> tuple[list[float], dict[str, list[float]]]:
    """The items' values of plain decoding, and of each row that gets a verdict."""
    values = {way["name"]: way["items"][report["metrics"][0]] for way in report["ways"]}
    rows = {
        way["name"]: values[way["name"]]
        for way in report["ways"]
        if not way["control"] and way["name"] != "vanilla" and not way["name"].startswith("reference")  # how others counted
    }
    return values["vanilla"], rows


def of_the_default(reports: list[dict[str, Any]]) -> str:
    """How often each verdict fell on DoLa's default."""
    found = [judge(*judged(report)).get(DEFAULT) for report in reports]
    verdicts = Counter(each.verdict.value for each in found if each is not None)
    points = sorted(100 * each.difference for each in found if each is not None)
    said = ", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common())
    return f"{DEFAULT}, in {len(points)} of the {len(found)} runs: {said}; from {points[0]:+.1f} to {points[-1]:+.1f} points."


def main() -> None:
    best = "best row, against vanilla | against vanilla with the same penalty | its verdict"
    print(f"| task | model | items | vanilla | {best} | all judged rows |")
    print("|---|---|---|---|---|---|---|---|")
    reports = [report for path in RESULTS.glob("*.json") if (report := json.loads(path.read_text())).get("ways")]
    for found in sorted(map(line, reports)):
        print(found)
    print(f"\n{of_the_default(reports)}")


if __name__ == "__main__":
    main()
