"""DoLa with a strength, and as a distribution, for one position at a time, in Python floats and loops.

Shares no code with `dola`.

The contrast is that of `dola_float64.py`, with the premature log-probabilities times the strength. The distribution is written
down in probabilities, not in the logits that the package returns.
"""

import math

from reference.dola_float64 import log_softmax, plausible, select, softmax


def gains(mature: list[float], premature: list[list[float]], strength: float, divergence: str = "jsd") -> list[float]:
    """F of all tokens: log p - strength * log q of the candidate that diverges most."""
    chosen = premature[select(mature, premature, divergence)] if len(premature) > 1 else premature[0]
    return [a - strength * b for a, b in zip(log_softmax(mature), log_softmax(chosen), strict=True)]


def distribution(
    mature: list[float], premature: list[list[float]], strength: float = 1.0, relative_top: float = 0.1, divergence: str = "jsd"
) -> list[float]:
    """Probabilities: softmax of F over the plausible set, times its mass under the model; the model's own elsewhere."""
    p, inside = softmax(mature), plausible(mature, relative_top)
    kept = [x for x, ok in enumerate(inside) if ok]
    found = gains(mature, premature, strength, divergence)
    mass = math.fsum(p[x] for x in kept)
    shares = softmax([found[x] for x in kept])
    ours = dict(zip(kept, shares, strict=True))
    return [mass * ours[x] if x in ours else p[x] for x in range(len(p))]


def contrast(
    mature: list[float], premature: list[list[float]], strength: float = 1.0, relative_top: float = 0.1, divergence: str = "jsd"
) -> list[float]:
    """F on the plausible set, -inf elsewhere."""
    found = gains(mature, premature, strength, divergence)
    return [f if ok else -math.inf for f, ok in zip(found, plausible(mature, relative_top), strict=True)]
