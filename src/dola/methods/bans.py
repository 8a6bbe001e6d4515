"""Rows that the mature scores decide, because the contrast says nothing of what is left to choose from.

Bans and biases work on scores, and below the plausible set scores only say that a token is implausible. So two kinds of rows
are decided as plain decoding decides them, by the mature scores under the same bans and biases: `lost` ones and `forced` ones.
"""

from __future__ import annotations

import torch
from torch import Tensor


def lost(scores: Tensor, support: Tensor) -> Tensor:
    """Rows [R] in which no plausible token leads any more: all are banned, or pushed below the implausible ones.

    Args:
        scores: The contrast [R, V] with bans and biases on it.
        support: Which tokens were plausible, bool [R, V].
    """
    best_plausible = scores.masked_fill(~support, -torch.inf).amax(dim=-1)
    best_other = scores.masked_fill(support, -torch.inf).amax(dim=-1)
    return best_plausible <= best_other


def forced(biased: Tensor, support: Tensor) -> Tensor:
    """Rows [R] in which plain decoding chooses an implausible token: a bias lifts it that high.

    A bias of 100 was not meant to bridge the gap below the plausible set. Ask only where something has lifted a token.

    Args:
        biased: The mature scores [R, V] under the same bans and biases.
        support: Which tokens were plausible, bool [R, V].
    """
    return ~support.gather(-1, biased.argmax(dim=-1, keepdim=True))[:, 0]
