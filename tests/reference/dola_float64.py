"""DoLa for one position at a time, in Python floats and loops, from arXiv 2309.03883. Shares no code with `dola`."""

import math

NEGATIVE_INFINITY = -math.inf


def softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    total = math.fsum(weights)
    return [w / total for w in weights]


def log_softmax(logits: list[float]) -> list[float]:
    top = max(logits)
    log_total = math.log(math.fsum(math.exp(x - top) for x in logits))
    return [x - top - log_total for x in logits]


def kl(p: list[float], q: list[float]) -> float:
    """KL(p||q), 0 log 0 = 0."""
    return math.fsum(a * (math.log(a) - math.log(b)) for a, b in zip(p, q, strict=True) if a > 0)


def jsd(mature: list[float], premature: list[float]) -> float:
    """1/2 KL(p||A) + 1/2 KL(q||A), section 2.2."""
    p, q = softmax(mature), softmax(premature)
    mean = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, mean) + kl(q, mean)) / 2


def reference_divergence(mature: list[float], premature: list[float]) -> float:
    """What transformers 4.55.4 has in place of the JSD: 1/2 [KL(A||p) + KL(A||q)] / |V|."""
    log_p, log_q = log_softmax(mature), log_softmax(premature)
    mean = [(math.exp(a) + math.exp(b)) / 2 for a, b in zip(log_p, log_q, strict=True)]

    def from_mean(log_r: list[float]) -> float:
        return math.fsum(a * (math.log(a) - r) for a, r in zip(mean, log_r, strict=True) if a > 0)

    return (from_mean(log_p) + from_mean(log_q)) / 2 / len(mature)


DIVERGENCES = {"jsd": jsd, "reference": reference_divergence}


def plausible(mature: list[float], relative_top: float) -> list[bool]:
    """V_head, eq. 4. A threshold of 0 keeps all."""
    probabilities = log_softmax(mature)
    if relative_top == 0:
        return [True] * len(mature)
    threshold = max(probabilities) + math.log(relative_top)
    return [x >= threshold for x in probabilities]


def select(mature: list[float], premature: list[list[float]], divergence: str) -> int:
    """argmax over the candidates, eq. 5; the first wins a tie."""
    values = [DIVERGENCES[divergence](mature, candidate) for candidate in premature]
    return values.index(max(values))


def contrast(
    mature: list[float], premature: list[list[float]], relative_top: float = 0.1, divergence: str = "jsd"
) -> list[float]:
    """F, eq. 3: -inf outside the plausible set."""
    chosen = premature[select(mature, premature, divergence)] if len(premature) > 1 else premature[0]
    log_p, log_q = log_softmax(mature), log_softmax(chosen)
    inside = plausible(mature, relative_top)
    return [
        (NEGATIVE_INFINITY if a == NEGATIVE_INFINITY else a - b) if ok else NEGATIVE_INFINITY
        for a, b, ok in zip(log_p, log_q, inside, strict=True)
    ]
