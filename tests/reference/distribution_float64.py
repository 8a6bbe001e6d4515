"""The contrast with a strength, and as a distribution, for one position in Python floats and loops, from the rule alone.

Shares no code with `dola`. The rule: F = log p - strength * log q on the plausible set. As a distribution, softmax(F) over the
plausible set times the mass that p gives the set, and p elsewhere.
"""

import math

from reference.dola_float64 import log_softmax, plausible, select

NEGATIVE_INFINITY = -math.inf


def chosen(mature: list[float], premature: list[list[float]], divergence: str) -> list[float]:
    return premature[select(mature, premature, divergence)] if len(premature) > 1 else premature[0]


def gains(mature: list[float], premature: list[float], strength: float) -> list[float]:
    """F of all tokens; where q is 0, infinite (or log p at strength 0)."""
    pairs = zip(log_softmax(mature), log_softmax(premature), strict=True)
    return [a if strength == 0 or a == NEGATIVE_INFINITY else a - strength * b for a, b in pairs]


def contrast(
    mature: list[float], premature: list[list[float]], relative_top: float, strength: float, divergence: str = "jsd"
) -> list[float]:
    """F on the plausible set, -inf outside it."""
    scores = gains(mature, chosen(mature, premature, divergence), strength)
    return [f if ok else NEGATIVE_INFINITY for f, ok in zip(scores, plausible(mature, relative_top), strict=True)]


def distribution(
    mature: list[float], premature: list[list[float]], relative_top: float, strength: float, divergence: str = "jsd"
) -> list[float]:
    """Probabilities of all tokens."""
    inside = plausible(mature, relative_top)
    scores = contrast(mature, premature, relative_top, strength, divergence)
    p = [math.exp(x) for x in log_softmax(mature)]
    mass = math.fsum(x for x, ok in zip(p, inside, strict=True) if ok)
    top = max(scores)
    if top == math.inf:  # tokens whose q is 0 take all, in equal parts
        weights = [1.0 if x == math.inf else 0.0 for x in scores]
    else:
        weights = [math.exp(x - top) if ok else 0.0 for x, ok in zip(scores, inside, strict=True)]
    total = math.fsum(weights)
    return [mass * w / total if ok else x for x, w, ok in zip(p, weights, inside, strict=True)]
