"""Simulates reports, to count how often verdicts claim a difference that does not exist and how often they find a real one."""

from __future__ import annotations

import numpy as np

from dola.evidence.looks import ends
from dola.evidence.paired import Floats, Labels, p_values
from dola.evidence.verdict import decide


def claims(
    *,
    runs: int = 1000,
    rows: int = 16,
    items: int = 400,
    effect: float = 0.0,
    discordant: float = 0.25,
    binary: bool = True,
    sequential: bool = False,
    cluster: int = 1,
    seed: int = 0,
) -> int:
    """Count the simulated reports that call a row better or worse. With an effect, only the row that has it counts.

    Args:
        runs: Number of reports.
        rows: Rows of each report; the first has the effect.
        items: Items of each report.
        effect: Mean difference of the first row.
        discordant: Share of items on which a row and the baseline differ; for values other than 0 and 1, their spread.
        binary: Whether values are 0 or 1.
        sequential: Whether to test after 25, 50, 75 and 100% of the items.
        cluster: Items in a group, whose differences partly agree.
        seed: Seed of the simulation.
    """
    generator = np.random.default_rng(seed)
    looks = ends(items) if sequential else [items]
    labels = None if cluster == 1 else np.arange(items) // cluster
    found = 0
    for _ in range(runs):
        apart = _apart(generator, items, rows, effect, discordant, binary=binary, labels=labels)
        tested = [p_values(apart[:end], None if labels is None else labels[:end], binary=binary) for end in looks]
        decided = decide(np.stack(tested), [end / items for end in looks])
        found += decided[0] is not None if effect else any(at is not None for at in decided)
    return found


def _apart(
    generator: np.random.Generator,
    items: int,
    rows: int,
    effect: float,
    discordant: float,
    *,
    binary: bool,
    labels: Labels | None,
) -> Floats:
    """Differences [items, rows]. Each item of a group equals its first one with probability 2/3."""
    means = np.zeros(rows)
    means[0] = effect
    if binary:
        drawn = generator.random((items, rows))
        up = (discordant + means) / 2
        found = (drawn < up).astype(float) - ((drawn >= up) & (drawn < discordant))
    else:
        found = means + discordant * generator.standard_normal((items, rows))
    if labels is None:
        return found
    first = np.searchsorted(labels, labels)
    like = generator.random((items, rows)) < 2 / 3
    return np.where(like, found[first], found)
