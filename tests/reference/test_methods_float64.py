"""The judges of the methods, held to numbers computed by hand and to invariants."""

import math

import pytest

from reference.methods_float64 import confident, cosine, delta, entropy, latent, sled


def test_entropy_of_a_fair_coin():
    assert entropy([0.0, 0.0]) == pytest.approx(math.log(2))


def test_confident_stops_where_the_entropy_rises():
    sure, unsure, surest = [3.0, 0.0], [1.0, 0.0], [9.0, 0.0]
    assert confident([2.0, 0.0], [surest, unsure, sure]) == sure  # the walk does not reach what lies below the rise
    assert confident([2.0, 0.0], [surest, sure]) == surest
    assert confident([9.0, 0.0], [surest]) == [9.0, 0.0]  # a tie is no fall


def test_cosines_of_vectors_without_a_direction_are_zero():
    assert cosine([0.0, 0.0], [1.0, 2.0]) == 0
    assert cosine([1.0, 0.0], [1.0, 1.0]) == pytest.approx(math.sqrt(0.5))


def test_the_latent_distribution_by_hand():
    """Two tokens: q - e_0 = (-1/2, 1/2), and the layer is d = (-1, 1) away: a cosine of 1 for token 0, and -1 for token 1."""
    assert latent([1.0, 0.0], [[0.0, 1.0 - 1.0]], 2) == pytest.approx({0: 1.0, 1: 0.0}, abs=1)
    assert latent([1.0, -1.0], [[0.0, 0.0]], 2) == pytest.approx({0: 1.0, 1: 0.0})


def test_a_layer_that_says_the_same_leaves_no_latent_distribution():
    """All cosines are 0, and so is P: the official code divides by no sum of zero."""
    assert latent([1.0, 0.0], [[1.0, 0.0]], 2) == {0: 0.0, 1: 0.0}
    assert sled([0.0, 0.0], [[0.0, 0.0]], rate=1.0, scale=1, steps=1) == pytest.approx({0: -0.5})


def test_one_step_of_the_evolution_by_hand():
    """p = (1/2, 1/2) and P = (1, 0): a step of rate 1 moves token 0 up by 1/2."""
    assert sled([0.0, 0.0], [[-1.0, 1.0]], rate=1.0, scale=1, steps=1) == pytest.approx({0: 0.5})


def test_a_line_is_continued():
    found = delta([4.0, 0.0], [[2.0, 0.0], [3.0, 0.0]], [1, 2, 3], beyond=2.0, relative_top=0.0)
    assert found == pytest.approx({0: 6.0, 1: 0.0})
    assert delta([4.0, 0.0], [[2.0, 0.0]], [2, 3], relative_top=0.5) == pytest.approx({0: 6.0})  # the other is implausible
