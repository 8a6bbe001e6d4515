"""SLED: move the likeliest tokens' logits toward a distribution estimated from all layers (arXiv 2411.02433).

z_N are the mature logits, z_l the logits of layer l, q_l their softmax, and e_i the distribution that is certain of token i:

    T      = the `scale` likeliest tokens of z_N
    c_li   = cos(q_l - e_i, z_l - z_N)                                        cosines
    P(i)   = sum_l max(c_li, 0)^2 / sum_lj max(c_lj, 0)^2   on T              latent
    z     <- z - rate (1 - t / steps) (softmax(z) - P)      t = 0, 1, ...     evolved

q_l - e_i is the gradient of layer l's loss for token i; z_l - z_N is the change of the logits from layer l to the last layer,
negated. The closer the two directions, the more layer l supports the token. All cosines of a layer come from a few sums over
the vocabulary, while the official code builds a vocabulary-sized row for each of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dola import native
from dola.methods.floors import with_floor
from dola.methods.method import Candidates, Method
from dola.methods.vocabulary import WHOLE, Vocabulary, wide

if TYPE_CHECKING:
    from dola.methods.config_sled import SLEDConfig

SHORTEST = 1e-8
"""Smallest length of a vector in a cosine, as in torch's cosine_similarity, which the official code uses."""


class SLED(Method):
    """Scores: the evolved logits of the likeliest tokens, and a floor below them."""

    config: SLEDConfig

    def scores(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE, *, lazy: bool = False) -> Tensor:
        """See `Method.scores`."""
        return self.decide(mature, candidates, vocab)[0]

    def weights(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> Tensor:
        """Each layer's share in P. If no layer supports any token, the mature layer has weight 1."""
        return self.decide(mature, candidates, vocab)[1]

    def support(self, mature: Tensor, vocab: Vocabulary = WHOLE) -> Tensor:
        """T, the `scale` likeliest tokens."""
        tokens = vocab.topk(wide(mature), self.config.scale)[1]
        return vocab.put(torch.zeros_like(mature, dtype=torch.float32), tokens, 1.0) > 0

    def decide(self, mature: Tensor, candidates: Candidates, vocab: Vocabulary = WHOLE) -> tuple[Tensor, Tensor]:
        """See `Method.decide`."""
        logits = wide(mature)
        likeliest, tokens = vocab.topk(logits, self.config.scale)
        zeros = torch.zeros_like(logits)
        inside = vocab.put(zeros, tokens, 1.0) > 0
        premature = candidates.logits().to(mature.device)
        speaks = cosines(mature, premature, likeliest, tokens, inside, vocab).clamp(min=0) ** 2  # [K, R, k]
        total = speaks.sum(dim=(0, 2))
        shares = speaks / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]  # 0 where no layer supports any token
        latent = vocab.put(zeros, tokens, shares.sum(dim=0).to(logits.dtype))
        weights = torch.cat([shares.sum(dim=-1), (total == 0).to(shares.dtype)[None]])
        return with_floor(self._evolved(logits, latent, vocab), inside, logits, vocab), weights.to(logits.dtype)

    def _evolved(self, logits: Tensor, latent: Tensor, vocab: Vocabulary) -> Tensor:
        """Logits [R, V] after all steps toward `latent` [R, V]."""
        rate, steps = self.config.rate, self.config.steps
        for t in range(steps):
            towards = vocab.log_softmax(logits).exp_().sub_(latent)
            logits = logits - rate * (1 - t / steps) * towards
        return logits


def cosines(
    mature: Tensor, premature: Tensor, likeliest: Tensor, tokens: Tensor, inside: Tensor, vocab: Vocabulary = WHOLE
) -> Tensor:
    """The cosines c_li [K, R, k], float64 if the device supports it.

    Let d = z_l - z_N. Then (q - e_i) d = sum_j q_j d_j - d_i and |q - e_i|^2 = sum_j q_j^2 - 2 q_i + 1. A layer without the
    final norm is often almost certain of a token; these differences then cancel to rounding error. So the sums cover the
    tokens outside T, where q is small. The terms of T are added one by one, with 1 - q_i as the sum of the other probabilities.

    Args:
        mature: z_N [R, V].
        premature: z_l [K, R, V].
        likeliest, tokens: The k mature logits of T and their ids, [R, k].
        inside: Which tokens are in T, bool [R, V].
        vocab: The vocabulary, or this worker's part of it.
    """
    small = torch.float32 if mature.device.type == "mps" else torch.float64
    log_z = vocab.logsumexp(native.log_z(premature)[..., None])
    parts = _sums(mature, premature, log_z, inside)
    # Each worker has summed its own columns. Treating each sum as a one-column vocabulary adds them up across workers.
    mass, square, product, distance = vocab.sum(parts[..., None]).to(small).unbind(dim=0)
    logits = wide(vocab.at(premature, tokens.expand(len(premature), *tokens.shape))).to(small)
    q, d = (logits - log_z[..., None]).exp(), logits - likeliest

    def others(outside: Tensor, of_tokens: Tensor) -> Tensor:
        return (outside + of_tokens.sum(dim=-1))[..., None] - of_tokens

    not_i = others(mass, q)
    dot = others(product, q * d) - not_i * d
    length = (others(square, q**2).clamp(min=0) + not_i**2).sqrt().clamp(min=SHORTEST)
    return dot / (length * distance.sqrt().clamp(min=SHORTEST)[..., None])


def _sums(mature: Tensor, premature: Tensor, log_z: Tensor, inside: Tensor) -> Tensor:
    """Sums of q, q^2 and q d over tokens outside T, and of d^2 over all, in the columns of this worker: [4, K, R]."""
    if native.compares(mature, premature):
        return native.sums_outside(mature, premature, log_z, inside)
    return torch.stack(
        [_layer_sums(wide(mature), wide(each), z, inside) for each, z in zip(premature, log_z, strict=True)], dim=1
    )


def _layer_sums(mature: Tensor, logits: Tensor, log_z: Tensor, inside: Tensor) -> Tensor:
    """The same of one layer, by torch: [4, R]."""
    d = torch.where(mature == -torch.inf, 0, logits - mature)  # columns without a token
    q = (logits - log_z[:, None]).exp().masked_fill(inside, 0)
    return torch.stack([q.sum(dim=-1), (q * q).sum(dim=-1), (q * d).sum(dim=-1), (d * d).sum(dim=-1)])
