"""Confident Decoding, SLED and DeLTa for one position at a time, in Python floats and loops, each from its rule in the paper or
in its official code. Shares no code with `dola`.

`layers` are rows of logits, the deepest last; `mature` is the row of the last layer.
"""

import math

from reference.dola_float64 import plausible, softmax


def entropy(logits: list[float]) -> float:
    """Of softmax(logits), in nats."""
    return -math.fsum(p * math.log(p) for p in softmax(logits) if p > 0)


def confident(mature: list[float], layers: list[list[float]]) -> list[float]:
    """The logits of the layer at which the walk down from the last one ends (arXiv 2606.21906)."""
    chosen = mature
    for logits in reversed(layers):
        if not entropy(logits) < entropy(chosen):
            break
        chosen = logits
    return chosen


def cosine(a: list[float], b: list[float]) -> float:
    """With lengths of at least 1e-8, as torch's cosine_similarity."""
    length = math.sqrt(math.fsum(x * x for x in a)), math.sqrt(math.fsum(x * x for x in b))
    dot = math.fsum(x * y for x, y in zip(a, b, strict=True))
    return dot / (max(length[0], 1e-8) * max(length[1], 1e-8))


def latent(mature: list[float], layers: list[list[float]], scale: int) -> dict[int, float]:
    """P of the likeliest tokens, as JayZhang42/SLED makes it: normalized within each layer, then over layers."""
    top = sorted(range(len(mature)), key=lambda x: -mature[x])[:scale]
    shares = []
    for logits in layers:
        q, away = softmax(logits), [a - b for a, b in zip(logits, mature, strict=True)]
        gradient = {i: [p - (x == i) for x, p in enumerate(q)] for i in top}
        shares.append({i: max(cosine(gradient[i], away), 0) ** 2 for i in top})
    sums = [math.fsum(of_layer.values()) for of_layer in shares]
    within = [{i: w / total if total else w for i, w in layer.items()} for layer, total in zip(shares, sums, strict=True)]
    over = math.fsum(sums)
    weight = [total / over if over else total for total in sums]
    return {i: math.fsum(s * layer[i] for s, layer in zip(weight, within, strict=True)) for i in top}


def sled(
    mature: list[float], layers: list[list[float]], rate: float = 2.0, scale: int = 10, steps: int = 10
) -> dict[int, float]:
    """The evolved logits of the likeliest tokens (arXiv 2411.02433), by token."""
    target, logits = latent(mature, layers, scale), list(mature)
    for t in range(steps):
        p = softmax(logits)
        logits = [z - rate * (1 - t / steps) * (p[x] - target.get(x, 0.0)) for x, z in enumerate(logits)]
    return {i: logits[i] for i in target}


def delta(
    mature: list[float], layers: list[list[float]], numbers: list[int], beyond: float = 1.0, relative_top: float = 0.1
) -> dict[int, float]:
    """The least-squares line of each plausible token's logit over the layers, at N + beyond (arXiv 2503.02343), by token.

    `numbers` are those of the layers, and last that of the mature one.
    """
    center = math.fsum(numbers) / len(numbers)
    spread = math.fsum((x - center) ** 2 for x in numbers)
    found = {}
    for token, inside in enumerate(plausible(mature, relative_top)):
        if inside:
            points = [row[token] for row in (*layers, mature)]
            mean = math.fsum(points) / len(points)
            slope = math.fsum((x - center) * (y - mean) for x, y in zip(numbers, points, strict=True)) / spread
            found[token] = mean + slope * (numbers[-1] + beyond - center)
    return found
