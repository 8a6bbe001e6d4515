"""The formulas of the methods on MLX's arrays. `dola.methods` defines them; tests hold these equal to the float64 judges.

`mature` is [..., V] and `premature` [K, ..., V]: logits, float32. Every function is a graph of array operations that depends
on no value, so that MLX can build the next step while this one runs.
"""

from __future__ import annotations

import math

import mlx.core as mx

from dola.mlx.on_cpu import exp, log, log1p

IMPLAUSIBLE = 1000.0
LARGEST_SCORE = 1e30
SHORTEST = 1e-8
SMALLEST = 1e-37  # the least divisor
LEAST = -1e4
"""In place of a log-probability of -inf, so that 0 times it is 0. Probabilities are 0 from -104 on."""


def log_softmax(logits: mx.array) -> mx.array:
    """Log-probabilities over the last axis."""
    return both(logits)[0]


def softmax(logits: mx.array) -> mx.array:
    """Probabilities over the last axis."""
    return both(logits)[1]


def both(logits: mx.array) -> tuple[mx.array, mx.array]:
    """Log-probabilities and probabilities over the last axis."""
    below = logits - logits.max(axis=-1, keepdims=True)
    shares = exp(below)
    total = shares.sum(axis=-1, keepdims=True)
    return below - mx.log(total), shares / total


def plausible(mature: mx.array, relative_top: float) -> mx.array:
    """Which tokens are at least `relative_top` times as probable as the likeliest: bool [..., V]. 0 keeps all."""
    least = math.log(relative_top) if relative_top > 0 else -math.inf
    return mature >= mature.max(axis=-1, keepdims=True) + least


def jsd(mature: mx.array, premature: mx.array) -> mx.array:
    """JSD - ln 2, as `divergences.jsd`: what p and q share, negated.

    With m the smaller and M the larger of p and q, the sum of a token's two terms is (p+q) ln(1 + m/M) + m |ln p - ln q|. No
    term cancels another, so the smallest shares are kept.
    """
    (log_p, p), (log_q, q) = both(mature), both(premature)
    smaller, larger = mx.minimum(p, q), mx.maximum(p, q)
    apart = mx.abs(mx.maximum(log_p, LEAST) - mx.maximum(log_q, LEAST))
    shared = (p + q) * log1p(smaller / mx.maximum(larger, SMALLEST)) + smaller * apart
    return -0.5 * shared.sum(axis=-1)


def reference(mature: mx.array, premature: mx.array) -> mx.array:
    """1/2 [KL(A||p) + KL(A||q)] / |V| with A = (p+q)/2, as `divergences.reference`."""
    (log_p, p), (log_q, q) = both(mature), both(premature)
    middle = 0.5 * (p + q)
    log_middle = log(mx.where(middle > 0, middle, 1))

    def kl(log_r: mx.array) -> mx.array:
        return mx.where(middle == 0, 0, middle * (log_middle - log_r)).mean(axis=-1)

    return 0.5 * (kl(log_p) + kl(log_q))


DIVERGENCES = {"jsd": jsd, "reference": reference}


def select(mature: mx.array, premature: mx.array, divergence: str) -> mx.array:
    """Index of the candidate that diverges most, [...]. The first wins a tie. A layer that is NaN wins: its scores show it."""
    if len(premature) == 1:
        return mx.zeros(mature.shape[:-1], mx.uint32)
    found = DIVERGENCES[divergence](mature, premature)
    return mx.where(mx.isnan(found), math.inf, found).argmax(axis=0)


def contrast(
    mature: mx.array, premature: mx.array, *, relative_top: float, divergence: str, strength: float, scores: str
) -> mx.array:
    """Scores [..., V], as `contrast.contrast`."""
    chosen = select(mature, premature, divergence)[None, ..., None]
    log_p, log_q = log_softmax(mature), log_softmax(mx.take_along_axis(premature, chosen, axis=0)[0])
    strength = min(strength, LARGEST_SCORE)
    gained = log_p - strength * mx.maximum(log_q, -LARGEST_SCORE / max(strength, 1.0))
    inside = plausible(mature, relative_top)
    if scores == "distribution":
        return distribution(mature, gained, inside)
    return mx.where(inside, gained, log_p - IMPLAUSIBLE)


def distribution(mature: mx.array, gained: mx.array, inside: mx.array) -> mx.array:
    """Logits of the distribution, as `distribution.distribution`."""
    mass = mx.logsumexp(mx.where(inside, mature, -math.inf), axis=-1, keepdims=True)
    shares = log_softmax(mx.where(inside, gained, -math.inf))
    return mx.where(inside, shares + mass, mature)


def with_floor(scores: mx.array, support: mx.array, mature: mx.array) -> mx.array:
    """As `floors.with_floor`."""
    least = mx.where(support, scores, math.inf).min(axis=-1, keepdims=True)
    return mx.where(support, scores, least + log_softmax(mature) - IMPLAUSIBLE)


def entropy(logits: mx.array) -> mx.array:
    """Entropy of softmax(logits) in nats, [...]."""
    log_p, p = both(logits)
    sums = (p * mx.maximum(log_p, LEAST)).sum(axis=-1)
    return -mx.where(mx.isnan(sums), 0, sums)  # 0 is the least: a layer that is NaN ends the walk, so its scores show it


def confident(mature: mx.array, premature: mx.array, downwards: list[int]) -> tuple[mx.array, mx.array]:
    """Logits of the layer where the walk ends, and the index of that layer; K is the mature one. As `confident._walk`."""
    scores, highest = mature, entropy(mature)
    still = mx.ones(mature.shape[:-1], mx.bool_)
    chosen = mx.full(mature.shape[:-1], len(premature), mx.int32)
    for k in downwards:
        found = entropy(premature[k])
        still, highest = still & (found < highest), found
        scores, chosen = mx.where(still[..., None], premature[k], scores), mx.where(still, k, chosen)
    return scores, chosen


def line_weights(layers: tuple[int, ...], beyond: float) -> list[float]:
    """The weights of DeLTa's layers, the mature one last. As `delta.line_weights`."""
    center = sum(layers) / len(layers)
    spread = sum((x - center) ** 2 for x in layers)
    return [1 / len(layers) + (x - center) * (layers[-1] + beyond - center) / spread for x in layers]


def delta(mature: mx.array, premature: mx.array, line: list[float], relative_top: float) -> mx.array:
    """The line's value on the plausible set, and a floor."""
    scores = line[-1] * mature + sum(weight * logits for weight, logits in zip(line, premature, strict=False))
    return with_floor(scores, plausible(mature, relative_top), mature)


def sled(mature: mx.array, premature: mx.array, *, rate: float, scale: int, steps: int) -> tuple[mx.array, mx.array]:
    """Evolved logits with a floor [..., V], and the layers' shares [K+1, ...]. As `sled.SLED.decide`."""
    scale = min(scale, mature.shape[-1])
    tokens = mx.argsort(-mature, axis=-1)[..., :scale]  # stable, so that the first wins a tie
    speaks = mx.maximum(cosines(mature, premature, tokens), 0) ** 2
    total = speaks.sum(axis=(0, -1))
    shares = speaks / mx.maximum(total, SMALLEST)[..., None]
    zeros = mx.zeros_like(mature)
    latent = mx.put_along_axis(zeros, tokens, shares.sum(axis=0), axis=-1)
    inside = mx.put_along_axis(zeros, tokens, mx.array(1.0), axis=-1) > 0
    logits = mature
    for t in range(steps):
        logits = logits - rate * (1 - t / steps) * (softmax(logits) - latent)
    weights = mx.concatenate([shares.sum(axis=-1), (total == 0).astype(mature.dtype)[None]])
    return with_floor(logits, inside, mature), weights


def cosines(mature: mx.array, premature: mx.array, tokens: mx.array) -> mx.array:
    """c_li [K, ..., k] by the sums of `sled.cosines`, which explains them."""
    inside = mx.put_along_axis(mx.zeros_like(mature), tokens, mx.array(1.0), axis=-1) > 0
    every = mx.broadcast_to(tokens[None], (len(premature), *tokens.shape))
    shares = softmax(premature)
    away = mx.where(mature == -math.inf, 0, premature - mature)
    outside, q = mx.where(inside, 0, shares), mx.take_along_axis(shares, every, axis=-1)
    d = mx.take_along_axis(premature, every, axis=-1) - mx.take_along_axis(mature, tokens, axis=-1)
    but_one = 1 - mx.eye(tokens.shape[-1])

    def others(sums: mx.array, of_tokens: mx.array) -> mx.array:
        return sums.sum(axis=-1)[..., None] + of_tokens @ but_one  # a difference of sums would cancel where one token has all

    not_i = others(outside, q)
    dot = others(outside * away, q * d) - not_i * d
    length = mx.maximum(mx.sqrt(mx.maximum(others(outside**2, q**2), 0) + not_i**2), SHORTEST)
    distance = mx.maximum(mx.sqrt((away**2).sum(axis=-1)), SHORTEST)
    return dot / (length * distance[..., None])
