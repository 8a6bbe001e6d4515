"""Gemma 3's weights: the tokens with MLX are those with torch. mlx_tokens.py compares more of them."""

from __future__ import annotations

import pytest
from mlx_tokens import CONFIGS, SHORT, Pair, folder_of

FEW = ("plain", "DoLa high", "SLED")
"""MLX multiplies the head slowly on a CPU: the vocabulary has 262,144 tokens."""


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory):
    return Pair(folder_of("gemma3-270m", tmp_path_factory.mktemp("gemma3")))


@pytest.mark.parametrize("way", FEW)
@pytest.mark.parametrize("prompt", SHORT)
def test_gemma3(gemma3, way, prompt):
    ours, theirs = gemma3.tokens(prompt, CONFIGS[way], 8)
    assert ours == theirs
