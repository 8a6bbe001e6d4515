"""Bad input to `dola.mlx`: the errors have the types that torch's have, and the same messages where both apply."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mlx.core as mx
import mlx.nn as nn
import pytest
from tiny_mlx import tiny

import dola
import dola.mlx
from dola.errors import ConfigError, DolaError, InputError, LayersError, MissingExtraError, ModelError, ModelFileError


@pytest.mark.parametrize("layers", [[9], [6], [-1], [], [1, 1], ["a"], [True], 3, "middle", "last:0"], ids=str)
def test_layers_that_a_model_lacks(folder, layers):
    said = []
    for attach, model in ((dola.attach, dola.load(str(folder))[0]), (dola.mlx.attach, dola.mlx.load(str(folder))[0])):
        with pytest.raises(DolaError) as error:
            attach(model, layers)
        said.append((type(error.value), error.value.message, error.value.hint))
    assert said[0] == said[1]


def test_a_config_for_another_depth(folder):
    config = dola.DoLaConfig([1, 20])
    with pytest.raises(LayersError, match=r"layer 20 in layers=\[1, 20\] does not exist; allowed are 0 to 5"):
        dola.mlx.attach(dola.mlx.load(str(folder))[0], config)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "nonesuch"}, "Model type nonesuch not supported"),
        ({}, "cannot be loaded with MLX"),
        ("[1", "cannot be loaded with MLX"),
    ],
)
def test_an_unknown_architecture(tmp_path, config, words):
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"x": mx.zeros(1)})
    with pytest.raises(ModelFileError, match=words) as error:
        dola.mlx.load(str(tmp_path))
    assert "\n" not in error.value.message


def test_models_without_parts():
    class Flat(nn.Module):
        layers = ()

    class Shallow(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(2, 2)]

    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = [nn.Linear(2, 2), nn.Linear(2, 2)]

    for model, words in (
        (SimpleNamespace(), "is not a model of MLX"),
        (Flat(), "has no list of blocks"),
        (Shallow(), "has 1 layer; DoLa needs at least 2"),
        (Bare(), "has no final norm after its blocks"),
    ):
        with pytest.raises(ModelError, match=words):
            dola.mlx.attach(model, "high")


def test_a_method_without_a_form_for_mlx():
    class Other(dola.DoLaConfig):
        method = "other"

    with pytest.raises(ConfigError, match="The method 'other' has no form for MLX; allowed are dola, "):
        dola.mlx.attach(tiny("llama"), Other())


@pytest.mark.parametrize("name", ["attach", "generate", "load", "stream_generate"])
def test_a_missing_extra(monkeypatch, name):
    monkeypatch.setattr("dola.mlx.need.find_spec", lambda name: None)
    monkeypatch.delitem(vars(dola.mlx), name, raising=False)
    with pytest.raises(MissingExtraError, match="needs mlx and mlx-lm, not installed here") as error:
        getattr(dola.mlx, name)
    assert "[mlx]" in error.value.hint


@pytest.mark.parametrize("layers", ["low", [1], dola.SLEDConfig()], ids=str)
def test_other_settings_than_the_attached_ones(layers):
    model = tiny("llama")
    with dola.mlx.attach(model, "high"), pytest.raises(InputError, match="DoLa is attached to this model with layers='high'"):
        next(dola.mlx.stream_generate(model, None, "x", dola_layers=layers))
