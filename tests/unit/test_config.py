"""DoLaConfig and layer resolution: what is accepted, and what the errors say."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from families import tiny

import dola
from dola.errors import ConfigError, LayersError
from dola.methods.layers import candidate_layers, parse


def test_defaults_are_the_papers_method():
    config = dola.DoLaConfig()
    assert dataclasses.astuple(config) == ("high", 0.1, "jsd", 1.0, "contrast", True, True, None)
    assert dola.DoLaConfig.reference("low") == dola.DoLaConfig("low", divergence="reference", final_norm=False)
    assert dola.DoLaConfig.reference().raw_head
    assert not dola.DoLaConfig(final_norm=False).raw_head


def test_the_settings_as_a_dict_make_the_same_configuration():
    config = dola.DoLaConfig([3, 1], relative_top=0.25, divergence="reference", final_norm=False, lazy=False)
    assert config.as_dict() == dataclasses.asdict(config)
    assert dola.DoLaConfig(**json.loads(json.dumps(config.as_dict()))) == config


def test_frozen_hashable_and_normalised():
    config = dola.DoLaConfig([3, 1])
    assert config.layers == (3, 1)
    assert config == dola.DoLaConfig(np.array([3, 1])) == dola.DoLaConfig(torch.tensor([3, 1]))
    assert len({config, dola.DoLaConfig((3, 1))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.relative_top = 0.5


# Candidate layers of transformers 4.55.4 (and the paper) at several depths: (N, tied) -> low, high.
BUCKETS = {
    (2, False): ([0], [1]),
    (2, True): ([1], [1]),
    (4, True): ([2], [2]),
    (5, True): ([2], [2, 4]),
    (6, False): ([0, 2], [3, 5]),
    (12, True): ([2, 4], [6, 8, 10]),
    (32, False): (list(range(0, 16, 2)), list(range(16, 32, 2))),
    (30, True): (list(range(2, 15, 2)), list(range(15, 30, 2))),
    (40, False): (list(range(0, 20, 2)), list(range(20, 40, 2))),
    (42, True): (list(range(2, 20, 2)), list(range(22, 42, 2))),
    (80, False): (list(range(0, 20, 2)), list(range(60, 80, 2))),
}


@pytest.mark.parametrize(("depth", "tied"), BUCKETS)
def test_buckets(depth, tied):
    low, high = BUCKETS[depth, tied]
    assert list(candidate_layers("low", depth, tied=tied)) == low
    assert list(candidate_layers("high", depth, tied=tied)) == high
    assert list(candidate_layers("all", depth, tied=tied)) == list(range(depth))


def test_an_empty_bucket_is_an_error():
    with pytest.raises(
        LayersError, match=r'layers="low" holds no layer in a model of 3 layers with tied embeddings; .* 0 to 2'
    ):
        candidate_layers("low", 3, tied=True)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([6], r"layer 6 in layers=\[6\] is the last \(mature\) layer.* 0 to 5 \(the model has 6 layers"),
        ([2, 7], r"layer 7 in layers=\[2, 7\] does not exist; allowed are 0 to 5 \(the model has 6 layers"),
        ([-1], r"layer -1 in layers=\[-1\] is negative; allowed are 0 to 5 .* 6 layers(.|\n)*write layers=\[5\]"),
        ([2, 2], r"layer 2 is listed twice in layers=\[2, 2\]; .* 0 to 5 .* 6 layers(.|\n)*write layers=\[2\]"),
        ([], r"layers=\[\] names no candidate layer; allowed are indices in 0 to 5 .* 6 layers"),
        ([1.5], r"layer 1.5 in layers=\[1.5\] is not an integer; allowed are 0 to 5"),
        (["3"], r"layer '3' in layers=\['3'\] is not an integer"),
        ([True], r"layer True in layers=\[True\] is not an integer"),
        (3, r"layers=3 is neither a bucket nor a list(.|\n)*fixed premature layer: layers=\[3\]"),
        (6, r"layers=6 is neither a bucket nor a list(.|\n)*fixed premature layer: layers=\[5\]"),
        (None, r"layers=None is neither a bucket nor a list"),
        ("middle", r"layers='middle' is neither a bucket nor a list .* low, high, all"),
    ],
    ids=str,
)
def test_bad_layers(llama, layers, message):
    if layers is not None:  # with which `attach` has a default
        with pytest.raises(LayersError, match=message):
            dola.attach(llama, layers)
    if layers not in (6, [6], [2, 7]):  # these need the model to be known as wrong
        with pytest.raises(LayersError, match=message if layers is None else None):
            dola.DoLaConfig(layers)


@pytest.mark.parametrize("layers", [[6], [2, 7]])
def test_a_config_is_checked_against_the_model_it_meets(llama, layers):
    with pytest.raises(LayersError, match="the model has 6 layers"):
        dola.attach(llama, dola.DoLaConfig(layers))


@pytest.mark.parametrize("value", [-0.1, 1.1, math.nan, math.inf, "0.1", None, True])
def test_bad_relative_top(value):
    with pytest.raises(ConfigError, match=r"relative_top=.* allowed is \[0, 1\]"):
        dola.DoLaConfig(relative_top=value)


@pytest.mark.parametrize("value", [0, 0.0, 1, 1.0, 0.5, np.float32(0.25)])
def test_good_relative_top(value):
    assert dola.DoLaConfig(relative_top=value).relative_top == value


def test_bad_divergence_and_flags():
    with pytest.raises(ConfigError, match=r"divergence='kl' is unknown; allowed are 'jsd', 'reference'"):
        dola.DoLaConfig(divergence="kl")
    for name in ("final_norm", "lazy"):
        with pytest.raises(ConfigError, match=rf"{name}='no' is not a bool"):
            dola.DoLaConfig(**{name: "no"})


def test_the_low_bucket_of_a_tied_model_starts_higher():
    with dola.attach(tiny("gemma"), "low") as attached:
        assert attached.layers == (2,)
    with dola.attach(tiny("llama"), "low") as attached:
        assert attached.layers == (0, 2)


@pytest.mark.parametrize(
    ("content", "config"),
    [
        ('{"layers": "low", "final-norm": false}', dola.DoLaConfig("low", final_norm=False)),
        (
            '{"layers": [3, 5], "relative_top": 0, "divergence": "reference"}',
            dola.DoLaConfig([3, 5], relative_top=0, divergence="reference"),
        ),
        ('{"layers": "26,28"}', dola.DoLaConfig([26, 28])),
        ('{"lazy": false}', dola.DoLaConfig(lazy=False)),
        ("{}", dola.DoLaConfig()),
    ],
)
def test_from_file(tmp_path, content, config):
    path = tmp_path / "dola.json"
    path.write_text(content, encoding="utf-8-sig")
    assert dola.DoLaConfig.from_file(path) == dola.DoLaConfig.from_file(str(path)) == config


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file or directory"),
        ("{", "is not JSON"),
        ("[1]", "holds a list, not a JSON object"),
        ('{"layers": "high", "max-new-tokens": 3}', "is not a setting of DoLa. Settings: layers, relative_top"),
        ('{"layers": "off"}', "says that DoLa is off(.|\n)*decode plainly"),
        ('{"layers": "hihg"}', "neither a bucket nor a list"),
        ('{"final-norm": 1}', "final_norm=1 is not a bool"),
    ],
)
def test_files_that_hold_no_config(tmp_path, content, message):
    path = tmp_path / "dola.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        dola.DoLaConfig.from_file(path)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("high", "high"),
        (" low ", "low"),
        ("last:10", "last:10"),
        ("24,28", (24, 28)),
        (" 24, 28 ", (24, 28)),
        ("24+28", (24, 28)),
        ("7", (7,)),
        ("-1", (-1,)),
        ("hihg", "hihg"),
        ("last:0", "last:0"),
        ([24, 28], [24, 28]),
        (None, None),
    ],
)
def test_layers_as_people_write_them(written, meant):
    assert parse(written) == meant


@pytest.mark.parametrize(("depth", "count", "first"), [(30, 10, 20), (30, 1, 29), (30, 30, 0), (6, 10, 0), (2, 1, 1)])
def test_a_window_is_of_the_last_candidate_layers(depth, count, first):
    layers = dola.DoLaConfig(f"last:{count}").layers
    assert candidate_layers(layers, depth, tied=True) == tuple(range(first, depth))


@pytest.mark.parametrize(
    "wrong", ["last:0", "last:", "last:-1", "last:1.5", "last: 3", "last10", "LAST:10", "last:10,3", "last:٣"]
)
def test_invalid_windows_are_refused(wrong):
    with pytest.raises(LayersError, match="last:10"):
        dola.DoLaConfig(wrong)
    with pytest.raises(LayersError, match="last:10"):
        candidate_layers(wrong, 12, tied=False)


def test_transformers4_is_another_name_of_reference():
    assert dola.DoLaConfig.transformers4("low") == dola.DoLaConfig.reference("low")
    config = dola.DoLaConfig((1,), divergence="transformers4", final_norm=False)
    assert config == dola.DoLaConfig.reference((1,))
    assert config.raw_head
    assert config.as_dict()["divergence"] == "reference"  # what files hold
