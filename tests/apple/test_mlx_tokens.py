"""Real weights: the tokens with MLX are those with torch, for every method. mlx_tokens.py compares more of them."""

from __future__ import annotations

import pytest
from mlx_tokens import CONFIGS, PROMPTS, Pair, folder_of

FEW = ("plain", "DoLa high", "SLED")
"""Ways of Gemma 3, whose head MLX multiplies slowly on a CPU: its vocabulary has 262,144 tokens."""


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    return Pair(folder_of("smollm2", tmp_path_factory.mktemp("smollm2")))


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory):
    return Pair(folder_of("gemma3-270m", tmp_path_factory.mktemp("gemma3")))


@pytest.mark.parametrize("way", CONFIGS)
@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_smollm2(smollm2, way, prompt):
    ours, theirs = smollm2.tokens(prompt, CONFIGS[way], 16)
    assert ours == theirs


@pytest.mark.parametrize("way", FEW)
@pytest.mark.parametrize("prompt", PROMPTS[:2])
def test_gemma3(gemma3, way, prompt):
    ours, theirs = gemma3.tokens(prompt, CONFIGS[way], 8)
    assert ours == theirs
