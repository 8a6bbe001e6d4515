"""The 417 questions of TruthfulQA that no lens has scored: see plans/lens-layer-25.md.

python benchmarks/held_out.py TruthfulQA.csv held-out.csv
"""

from __future__ import annotations

import csv
import random
import sys


def main() -> None:
    source, target = sys.argv[1:]
    with open(source, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    seen = set(random.Random(0).sample(range(len(rows)), 400))
    with open(target, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *(row for number, row in enumerate(rows) if number not in seen)])


if __name__ == "__main__":
    main()
