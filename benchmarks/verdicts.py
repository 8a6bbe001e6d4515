"""Simulations that anyone can run: how often reports claim a difference where there is none, and find one where there is.

    python benchmarks/verdicts.py            # 1,000 reports of each kind; some minutes
    python benchmarks/verdicts.py --runs 100

A procedure of exactly 5% claims a difference in at most 65 of 1,000 reports with probability 98.5%.
"""

import argparse
from itertools import product

from dola.evidence.simulate import claims


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    runs = parser.parse_args().runs
    print(f"No effect, 16 rows, 400 items: reports of {runs:,} that call a row better or worse")
    for binary, sequential, cluster in product((True, False), (False, True), (1, 8)):
        found = claims(runs=runs, binary=binary, sequential=sequential, cluster=cluster)
        kind = "right or wrong" if binary else "other values"
        print(f"  {kind:<15} {'four looks' if sequential else 'at once':<11} groups of {cluster}: {found}")
    print("One of 16 rows differs by 10 points, 400 items: reports that find it")
    for sequential, share in product((False, True), (0.2, 0.25, 0.3)):
        found = claims(runs=runs, effect=0.1, discordant=share, sequential=sequential)
        print(f"  {share:.0%} discordant items, {'four looks' if sequential else 'at once'}: {found}")


if __name__ == "__main__":
    main()
