"""Keep a report in results/evaluation, with every item's values and without the benchmark's own texts, which have licenses.

    python benchmarks/keep.py report.json factor-full-smollm2

The ids of the items and the hash of the data say which texts they are.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "results" / "evaluation"
TEXTS = ("items", "changed", "traces")
TEXTS_OF_A_WAY = ("chosen",)
"""Fields that quote the items: questions, given answers, and which of them a row chose."""


def without_texts(report: dict[str, Any]) -> dict[str, Any]:
    """The report without the texts of its items."""
    kept = {name: value for name, value in report.items() if name not in TEXTS}
    if ways := kept.get("ways"):
        kept["ways"] = [{name: value for name, value in way.items() if name not in TEXTS_OF_A_WAY} for way in ways]
    return kept


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    report = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    (FOLDER / f"{sys.argv[2]}.json").write_text(json.dumps(without_texts(report)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
