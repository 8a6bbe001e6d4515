"""One lens file for both backends, and lenses that do not fit: the same scores, and the same errors."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
import torch
from command import tokenizer
from safetensors.torch import save_file

import dola
import dola.mlx
from dola.errors import LensError

TEXTS = [f"The number {number} is written {number} times {number}." for number in range(60)]
IDS = [[3, 9, 27, 17, 51, 8]]
WAYS = {
    "dola": lambda lens: dola.DoLaConfig([1, 2, 3], lens=lens),
    "distribution": lambda lens: dola.DoLaConfig([1, 3], scores="distribution", strength=0.5, lens=lens),
    "sled": lambda lens: dola.SLEDConfig(layers=[1, 2, 3], final_norm=True, lens=lens),
    "confident": lambda lens: dola.ConfidentConfig(layers=[1, 2, 3], lens=lens),
    "delta": lambda lens: dola.DeLTaConfig(layers=[1, 2, 3], lens=lens),
}


@pytest.fixture(scope="module")
def models(folder):
    """The same weights in both libraries."""
    return dola.load(str(folder))[0], dola.mlx.load(str(folder))[0]


@pytest.fixture(scope="module")
def fitted(models):
    return dola.fit_lens(models[0], tokenizer(), TEXTS, layers=[1, 2, 3], tokens=1500)


@pytest.fixture
def saved(fitted, tmp_path):
    """Save the lens with other contents."""

    def make(**changes):
        path = str(tmp_path / "x.lens.safetensors")
        replace(fitted, **changes).save(path)
        return path

    return make


@pytest.mark.parametrize("kind", ["linear", "tuned"])
@pytest.mark.parametrize("way", WAYS)
def test_scores_are_those_of_torch(models, saved, way, kind):
    ours, theirs = models
    config = WAYS[way](saved(kind=kind))
    with dola.attach(ours, config), torch.no_grad():
        wanted = ours(torch.tensor(IDS)).logits.numpy()
    with dola.mlx.attach(theirs, config):
        found = np.array(theirs(mx.array(IDS)))
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    with dola.mlx.attach(theirs, replace(config, lens=None)):
        assert not np.allclose(theirs(mx.array(IDS)), wanted, rtol=1e-2)  # the lens matters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (lambda lens: {"facts": {**lens.facts, "num_layers": 9}}, r"\(9 layers, width "),
        (lambda lens: {"statistics": {k: 2 * v for k, v in lens.statistics.items()}}, "has other weights"),
        (lambda lens: {"weight": lens.weight * torch.nan}, "has NaN or infinite numbers"),
        (lambda lens: {"bias": lens.bias[:, :3]}, "is not a lens that this version reads"),
        (lambda lens: {"layers": (1, 2)}, "is not a lens that this version reads"),
        (lambda lens: {"kind": "other"}, "is not a lens that this version reads: its kind is 'other'"),
        (lambda lens: {"layers": (0, 1, 2)}, "has no map for layer 3; it has 0, 1, 2"),
    ],
)
def test_lenses_that_do_not_fit_are_refused_as_in_torch(models, fitted, saved, changes, words):
    config = dola.DoLaConfig([1, 2, 3], lens=saved(**changes(fitted)))
    with pytest.raises(LensError, match=words):
        dola.mlx.attach(models[1], config)
    with pytest.raises(LensError, match=words):
        dola.attach(models[0], config)


@pytest.mark.parametrize("content", [b"", b"x" * 100, None])
def test_files_that_are_not_lenses_are_refused_as_in_torch(models, tmp_path, content):
    path = tmp_path / "x.lens.safetensors"
    if content is None:
        save_file({"weight": torch.zeros(2)}, path)
    else:
        path.write_bytes(content)
    words = "is not a lens: its metadata" if content is None else "it is cut off, or not safetensors"
    for attach, model in zip((dola.attach, dola.mlx.attach), models, strict=True):
        with pytest.raises(LensError, match=words):
            attach(model, dola.DoLaConfig([1], lens=str(path)))
