"""Steps that read no layer: where one token is plausible, no layer can change the choice.

Whether that is so depends on the mature logits, so each step waits for them, and mlx-lm cannot build the next step meanwhile.
That is worth it on a CPU where each more row costs as much as the first. Elsewhere one product reads the head for all rows: on
a GPU, and on a CPU by `on_cpu.py`. `benchmarks/mlx_cost.py` measures both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from dola.mlx.on_cpu import dense_weight
from dola.mlx.parts import find
from dola.mlx.rules import settled_scores

if TYPE_CHECKING:
    from dola.mlx.capture import Call
    from dola.mlx.session import Attachment


class Skipping:
    """The steps of one attachment that skip its layers where they can.

    Attributes:
        steps: Steps so far.
        saved: Those that read no layer.
    """

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._settled = settled_scores(attachment.config)
        self.steps = self.saved = 0

    def applies(self, shape: tuple[int, ...]) -> bool:
        """Whether a forward of these tokens, [B, T], is a step of one text, with a method whose rows can be settled."""
        return self._settled is not None and shape == (1, 1)

    def scores(self, run: Callable[[], mx.array]) -> mx.array:
        """The scores of a step [1, 1, V]. In a settled one the plausible token leads, as it does with the layers."""
        assert self._settled is not None
        mature, call = self._attachment.with_states(run)
        self.steps += 1
        is_settled, scores = self._settled(mature)
        if is_settled.item():
            self.saved += 1
            return scores
        return self._attachment.scores(mature, self._premature(call))

    def _premature(self, call: Call) -> mx.array:
        """The logits [K, 1, 1, V] of the candidates, in a product of their own."""
        states, normed = self._attachment.to_read(call)
        stacked = mx.concatenate(states)
        logits, head = self._attachment.end(*((stacked, None) if normed else (None, stacked)))
        return (logits if head is None else head)[:, None]


def pays(model: Any) -> bool:
    """Whether skipping is the faster way for a model on the device in use.

    Raises:
        ModelError: The model's parts are not found.
    """
    return bool(mx.default_device() == mx.cpu) and dense_weight(find(model).readout) is None
