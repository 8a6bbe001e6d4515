"""The judge of strength and of the distribution, held to numbers computed by hand and to the judge of the contrast."""

import math

import pytest

from reference import dola_float64
from reference.distribution_float64 import contrast, distribution

P = [math.log(p) for p in (0.5, 0.25, 0.15, 0.1)]
Q = [math.log(q) for q in (0.5, 0.125, 0.25, 0.125)]


def test_a_distribution_by_hand():
    # Plausible are the first three, with a mass of 0.9. exp F = 1, 2, 0.6.
    expected = [0.9 / 3.6, 0.9 * 2 / 3.6, 0.9 * 0.6 / 3.6, 0.1]
    assert distribution(P, [Q], relative_top=0.25) == pytest.approx(expected, abs=1e-15)


def test_half_the_strength_by_hand():
    # exp F = p / sqrt(q)
    weights = [0.5 / math.sqrt(0.5), 0.25 / math.sqrt(0.125)]
    expected = [0.75 * w / sum(weights) for w in weights] + [0.15, 0.1]
    assert distribution(P, [Q], strength=0.5, relative_top=0.5) == pytest.approx(expected, abs=1e-15)


def test_without_strength_nothing_changes():
    assert distribution(P, [Q], strength=0.0) == pytest.approx([0.5, 0.25, 0.15, 0.1], abs=1e-15)


def test_with_strength_1_it_is_the_contrast():
    assert contrast(P, [Q], relative_top=0.25) == dola_float64.contrast(P, [Q], relative_top=0.25)
