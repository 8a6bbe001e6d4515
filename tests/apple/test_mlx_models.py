"""Model files of mlx-lm that are built differently: a part of what `make mlx-models` tries, and its page."""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version

import mlx_matrix
import pytest
from mlx_matrix import NOT_BUILT, PAGE, REFUSED, RESULTS, RIGHT, Outcome, files, page, try_out

KINDS = {
    "deepseek_v3": "attention over a compressed cache, by another formula for one token",
    "deepseek_v32": "and sparse",
    "hunyuan": "blocks that share keys",
    "afm7": "two lists of blocks",
    "gemma4": "a text model inside another, inputs of each block, keys of earlier blocks",
    "nemotron_h": "blocks of four kinds",
    "qwen3_next": "linear attention",
    "mamba2": "no attention",
    "recurrent_gemma": "a soft-cap",
    "minicpm3": "a scale before the head",
}


@pytest.mark.parametrize("name", KINDS)
def test_scores_are_the_judges(name):
    outcome = try_out(name)
    assert outcome.status == RIGHT, outcome


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nanochat", "has no final norm after its blocks"),
        ("gemma3n", "passes on no single residual stream"),
        ("kimi_k3", "does not reproduce its logits"),
    ],
)
def test_others_are_refused_by_name(name, words):
    outcome = try_out(name)
    assert outcome.status == REFUSED
    assert outcome.note.startswith(name) or f"in {name} " in outcome.note
    assert words in outcome.note


def test_the_page_has_every_file_and_none_is_wrong():
    outcomes = [Outcome(**made) for made in json.loads(RESULTS.read_text())]
    counts = Counter(outcome.status for outcome in outcomes)
    assert set(counts) <= {RIGHT, REFUSED, NOT_BUILT}
    text = PAGE.read_text(encoding="utf-8")
    if f"mlx-lm {version('mlx-lm')}, mlx {version('mlx')}:" in " ".join(text.split()):
        assert [outcome.name for outcome in outcomes] == files()
        assert text == page(outcomes), f"run: {mlx_matrix.__doc__.splitlines()[2].strip()}"
