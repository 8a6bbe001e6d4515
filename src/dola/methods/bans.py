"""Find rows in which bans or biases leave only tokens that the contrast cannot rank.

Scores below the plausible set only say that a token is implausible. Two kinds of rows therefore use the mature scores, under
the same bans and biases, as plain decoding does: `lost` rows and `forced` rows.
"""

from __future__ import annotations

from torch import Tensor


def lost(scores: Tensor, support: Tensor) -> Tensor:
    """Rows [R] in which no plausible token ranks first: all are banned, or pushed below an implausible one.

    Args:
        scores: The contrast [R, V] after bans and biases.
        support: Which tokens were plausible, bool [R, V].
    """
    first = scores == scores.amax(dim=-1, keepdim=True)
    return (first & ~support).any(dim=-1)


def forced(biased: Tensor, support: Tensor) -> Tensor:
    """Rows [R] in which plain decoding would choose an implausible token, because a bias raises it.

    A bias of 100 cannot bridge the gap below the plausible set. Call this only if a bias raised some token.

    Args:
        biased: Mature scores [R, V] under the same bans and biases.
        support: Which tokens were plausible, bool [R, V].
    """
    return ~support.gather(-1, biased.argmax(dim=-1, keepdim=True))[:, 0]
