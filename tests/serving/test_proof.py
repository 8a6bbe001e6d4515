"""A part that is not the right one makes the proof fail, and the engine refuses to start with what was found."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engines import Engine
from torch import nn

WRONG = {
    "a norm that is not the final one": "differs from the state that the model returns by",
    "the blocks in another order": "differs from the state that the model returns by",
    "blocks of another tower": "gave no finite numbers other than zero",
    "another head": "the logits of the head alone differ from the model's by",
    "no head": "the logits of the head alone cannot be computed",
}


def _wrong(what: str, parts: Any, model: Any) -> Any:
    blocks = parts.blocks
    if what == "a norm that is not the final one":
        norm = type(parts.norms[0][1])(parts.width)
        nn.init.normal_(norm.weight)  # tiny models' norms are all ones, and so the same function
        return replace(parts, norms=[("model.embedding_norm", norm)])
    if what == "the blocks in another order":
        return replace(parts, blocks=nn.ModuleList(reversed(blocks)))
    if what == "blocks of another tower":
        from vllm.model_executor.models.llama import LlamaDecoderLayer

        other = [LlamaDecoderLayer.__new__(LlamaDecoderLayer) for _ in blocks]
        for block in other:
            nn.Module.__init__(block)
        return replace(parts, blocks=nn.ModuleList(other))
    return replace(parts, head=model.model.embed_tokens if what == "another head" else None)


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_part_is_refused(what: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch):
    from dola.integrations.vllm import mixin

    right = mixin.parts_of
    monkeypatch.setattr(mixin, "parts_of", lambda model, *sizes: _wrong(what, right(model, *sizes), model))
    with pytest.raises(ValueError, match=WRONG[what]) as refused:
        Engine(tiny_folder, {"layers": "high"})
    assert "Found: blocks model.layers (6), norms model." in str(refused.value)
    assert "dola.generate" in str(refused.value)


def test_the_nearest_norm_is_chosen_among_several():
    from dola.integrations.vllm.parts import Parts
    from dola.integrations.vllm.proof import nearest_norm

    norms = [(name, nn.LayerNorm(8)) for name in ("first", "second", "third")]
    for _, norm in norms:
        nn.init.normal_(norm.weight)
    parts, states = Parts("layers", nn.ModuleList(), norms, None, None, 8), torch.randn(5, 8)
    assert nearest_norm(parts, states, norms[1][1](states)).name == "second"
    assert nearest_norm(parts, states, states).name == "no norm"
    scaled = nearest_norm(parts, states, norms[2][1](states) * 0.25)
    assert (scaled.name, pytest.approx(scaled.scale)) == ("third", 0.25)
    assert nearest_norm(parts, states, torch.randn(5, 8)).error > 0.1
