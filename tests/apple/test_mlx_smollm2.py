"""SmolLM2's weights: the tokens with MLX are those with torch, for every method. mlx_tokens.py compares more of them."""

from __future__ import annotations

import pytest
from mlx_tokens import CONFIGS, SHORT, Pair, folder_of


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    return Pair(folder_of("smollm2", tmp_path_factory.mktemp("smollm2")))


@pytest.mark.parametrize("way", CONFIGS)
@pytest.mark.parametrize("prompt", SHORT)
def test_smollm2(smollm2, way, prompt):
    ours, theirs = smollm2.tokens(prompt, CONFIGS[way], 16)
    assert ours == theirs
