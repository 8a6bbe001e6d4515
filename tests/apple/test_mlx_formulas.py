"""The formulas on MLX's arrays equal the float64 judges, for every method."""

from __future__ import annotations

import math

import mlx.core as mx
import pytest
from reference import distribution_float64, dola_float64, methods_float64

from dola.mlx import formulas

V, K = 50, 4
SEEDS = range(6)


def rows(seed: int) -> tuple[list[float], list[list[float]]]:
    mx.random.seed(seed)
    mature, premature = 3 * mx.random.normal((V,)), 3 * mx.random.normal((K, V))
    return mature.tolist(), (0.5 * mature + premature).tolist()


def scored(function, mature, premature, *args, **kwargs):
    """The scores, after a check that a step of decoding gets the same: on a CPU numpy takes part there."""
    by_shape = []
    for positions in ((), (1,)):
        row, rows = (
            mx.array(mature).reshape(1, *positions, -1),
            mx.array(premature).reshape(len(premature), 1, *positions, len(mature)),
        )
        found = function(row, rows, *args, **kwargs)
        by_shape.append((found[0] if isinstance(found, tuple) else found).reshape(-1))
    assert mx.allclose(*by_shape, rtol=1e-5, atol=1e-5)
    return by_shape[0].tolist()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("divergence", ["jsd", "reference"])
def test_the_contrast(seed, divergence):
    mature, premature = rows(seed)
    how = {"relative_top": 0.1, "divergence": divergence, "strength": 1.0, "scores": "contrast"}
    found = scored(formulas.contrast, mature, premature, **how)
    for ours, judge, log_p in zip(
        found, dola_float64.contrast(mature, premature, relative_top=0.1, divergence=divergence),
        dola_float64.log_softmax(mature), strict=True,
    ):  # fmt: skip
        assert ours == pytest.approx(log_p - 1000 if judge == -math.inf else judge, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_distribution(seed, strength):
    mature, premature = rows(seed)
    how = {"relative_top": 0.1, "divergence": "jsd", "strength": strength, "scores": "distribution"}
    found = dola_float64.softmax(scored(formulas.contrast, mature, premature, **how))
    assert found == pytest.approx(
        distribution_float64.distribution(mature, premature, strength=strength, relative_top=0.1), rel=1e-4, abs=1e-7
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_confident_decoding(seed):
    mature, premature = rows(seed)
    found = scored(formulas.confident, mature, premature, [3, 2, 1, 0])
    assert found == pytest.approx(methods_float64.confident(mature, premature), rel=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_delta(seed):
    mature, premature = rows(seed)
    line = formulas.line_weights((4, 5, 6, 7, 8), 1.0)
    found = scored(formulas.delta, mature, premature, line, 0.1)
    judge = methods_float64.delta(mature, premature, [4, 5, 6, 7, 8])
    assert {x: found[x] for x in judge} == pytest.approx(judge, rel=1e-4, abs=1e-5)
    assert all(score < min(judge.values()) - 900 for x, score in enumerate(found) if x not in judge)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scale", [1, 10, 200])
def test_sled(seed, scale):
    mature, premature = rows(seed)
    found = scored(formulas.sled, mature, premature, rate=2.0, scale=scale, steps=10)
    judge = methods_float64.sled(mature, premature, scale=scale)
    assert {x: found[x] for x in judge} == pytest.approx(judge, rel=1e-4, abs=1e-4)


def test_columns_without_a_token_stay_out():
    """A padded vocabulary has logits of -inf in its last columns."""
    mature, premature = rows(0)
    for row in (mature, *premature):
        row[-1] = -math.inf
    how = {"relative_top": 0.1, "divergence": "jsd", "strength": 1.0, "scores": "contrast"}
    found = [
        scored(formulas.contrast, mature, premature, **how),
        scored(formulas.sled, mature, premature, rate=2.0, scale=10, steps=10),
        scored(formulas.confident, mature, premature, [3, 2, 1, 0]),
    ]
    for scores in found:
        assert not any(map(math.isnan, scores))
        assert max(range(V), key=lambda x: scores[x]) != V - 1


@pytest.mark.parametrize("divergence", ["jsd", "reference"])
def test_a_layer_that_is_nan_is_read(divergence):
    """Its scores then show the fault. A layer that is left out in silence would hide it."""
    mature, premature = rows(0)
    premature[2] = [math.nan] * V
    of = mx.array([mature]), mx.array(premature)[:, None]
    assert formulas.select(*of, divergence).item() == 2
    assert formulas.confident(*of, [3, 2, 1, 0])[1].item() in (2, 3)
    assert formulas.confident(*of, [2, 1, 0])[1].item() == 2
