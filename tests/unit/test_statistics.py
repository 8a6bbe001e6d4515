"""Paired comparisons: against results worked out by hand, and by properties that must hold."""

import math

import numpy as np
import pytest

from dola.errors import InputError
from dola.evidence.statistics import FEWEST_ITEMS, Comparison, compare, describe, estimate, folds, mcnemar


@pytest.mark.parametrize(
    ("higher", "lower", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),  # 2 * 1/2
        (5, 0, 2 / 32),
        (0, 5, 2 / 32),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
        (3, 3, 1.0),  # twice the tail is more than 1
    ],
)
def test_mcnemar_by_hand(higher, lower, p):
    assert mcnemar(higher, lower) == pytest.approx(p, rel=1e-12)


def test_mcnemar_of_many_items_is_the_normal_approximation():
    # (b - c)^2 / (b + c) with continuity correction: z = 99 / sqrt(2000)
    assert mcnemar(1050, 950) == pytest.approx(math.erfc(99 / math.sqrt(2000) / math.sqrt(2)), rel=0.01)


def test_the_interval_is_that_of_the_normal_approximation_where_it_holds():
    values = np.random.default_rng(7).normal(0.4, 1.0, 2000)
    found = estimate(values.tolist())
    half = 1.96 * values.std() / math.sqrt(2000)
    assert (found.items, found.mean) == (2000, pytest.approx(values.mean()))
    assert (found.low, found.high) == (
        pytest.approx(values.mean() - half, abs=0.1 * half),
        pytest.approx(values.mean() + half, abs=0.1 * half),
    )


def test_the_same_seed_gives_the_same_interval_and_another_does_not():
    values = np.random.default_rng(1).random(50).tolist()
    assert estimate(values, seed=3) == estimate(values, seed=3)
    assert estimate(values, seed=3).low != estimate(values, seed=4).low


def test_values_that_are_all_equal_have_an_interval_without_width():
    found = estimate([0.25] * 30)
    assert (found.mean, found.low, found.high) == (0.25, 0.25, 0.25)


def test_a_comparison_by_hand():
    before = [1, 0, 0, 0] * 10
    after = [1, 1, 0, 0] * 10
    found = compare(before, after, binary=True)
    assert (found.items, found.baseline, found.method, found.difference) == (40, 0.25, 0.5, 0.25)
    assert (found.higher, found.lower, found.p_value) == (10, 0, pytest.approx(2 / 1024))
    assert 0.1 < found.low < 0.15  # the 2.5% point of a binomial of 40 draws at 1/4, over 40: 5 / 40
    assert 0.35 < found.high < 0.42
    assert found.significant


def test_pairing_counts():
    """Two methods with the same values on other items differ by nothing; unpaired samples of them would not tell."""
    values = [0.0, 1.0] * 50
    swapped = compare(values, values[::-1], binary=False)
    assert swapped.difference == 0
    assert swapped.low < 0 < swapped.high
    same = compare(values, values, binary=False)
    assert (same.low, same.high, same.higher, same.lower, same.p_value) == (0, 0, 0, 0, None)
    assert not same.significant


def test_a_constant_gain_is_significant_on_enough_items_only():
    assert compare([0.5] * FEWEST_ITEMS, [0.6] * FEWEST_ITEMS, binary=False).significant
    assert not compare([0.5] * (FEWEST_ITEMS - 1), [0.6] * (FEWEST_ITEMS - 1), binary=False).significant


def test_mcnemar_has_a_veto():
    """Five items of a hundred, all one way: the interval is above 0, but five coins all fall the same way once in 16 times."""
    found = compare([0] * 100, [1] * 5 + [0] * 95, binary=True)
    assert found.low > 0
    assert found.p_value == pytest.approx(1 / 16)
    assert not found.significant


def test_of_methods_that_do_not_differ_about_one_in_twenty_is_called_different():
    generator = np.random.default_rng(0)
    called = sum(compare(*generator.random((2, 60)).tolist(), binary=False, seed=trial).significant for trial in range(40))
    assert called <= 6  # 2 are expected; more than 6 come once in 150 times


@pytest.mark.parametrize(
    ("before", "after", "binary", "message"),
    [
        ([], [], False, "values of the baseline are empty"),
        ([1.0], [1.0, 0.0], False, "1 values and the method 2"),
        ([1.0, math.nan], [1.0, 0.0], False, "Number 1 of the values of the baseline is not finite"),
        ([1.0, 0.0], [1.0, math.inf], False, "Number 1 of the values of the method is not finite"),
        ([1.0, 0.0], [1.0, 0.5], True, "other than 0 and 1"),
    ],
)
def test_what_cannot_be_compared(before, after, binary, message):
    with pytest.raises(InputError, match=message):
        compare(before, after, binary=binary)


def row(**given):
    fields = {"items": 817, "baseline": 0.256, "method": 0.322, "difference": 0.066, "low": 0.031, "high": 0.1012}
    return Comparison(**{**fields, "higher": 90, "lower": 36, "p_value": 0.0123, **given})


@pytest.mark.parametrize(
    ("comparison", "sentence"),
    [
        (
            row(),
            "mc1: DoLa 32.2 against vanilla 25.6 on 817 items, 6.6 points higher (95% interval +3.1 to +10.1; "
            "McNemar p = 0.012): statistically significant.",
        ),
        (
            row(method=0.19, difference=-0.066, low=-0.1, high=-0.03, p_value=None),
            "mc1: DoLa 19.0 against vanilla 25.6 on 817 items, 6.6 points lower (95% interval -10.0 to -3.0): "
            "statistically significant.",
        ),
        (
            row(low=-0.01, p_value=0.0001),
            "mc1: DoLa 32.2 against vanilla 25.6 on 817 items, 6.6 points higher (95% interval -1.0 to +10.1; "
            "McNemar p < 0.001): not statistically significant.",
        ),
        (
            row(items=8, p_value=None),
            "mc1: DoLa 32.2 against vanilla 25.6 on 8 items, 6.6 points higher (95% interval +3.1 to +10.1): "
            "8 items are too few to decide.",
        ),
        (
            row(method=0.256, difference=0.0, low=-0.02, high=0.02, p_value=1.0),
            "mc1: DoLa 25.6 against vanilla 25.6 on 817 items, equal (95% interval -2.0 to +2.0; "
            "McNemar p = 1.000): not statistically significant.",
        ),
    ],
)
def test_a_sentence(comparison, sentence):
    assert describe(comparison, "mc1", method="DoLa") == sentence


@pytest.mark.parametrize(("n", "k"), [(817, 2), (10, 3), (3, 3)])
def test_folds_are_disjoint_and_complete(n, k):
    found = folds(n, k, seed=5)
    sizes = [len(fold) for fold in found]
    assert sorted(index for fold in found for index in fold) == list(range(n))
    assert len(found) == k
    assert max(sizes) - min(sizes) <= 1
    assert all(list(fold) == sorted(fold) for fold in found)
    assert found == folds(n, k, seed=5)


def test_another_seed_gives_other_folds():
    assert folds(100, 2, seed=0) != folds(100, 2, seed=1)
    assert folds(100, 2, seed=0)[0] != tuple(range(0, 100, 2))  # at random, not every second


@pytest.mark.parametrize(("n", "k"), [(5, 1), (5, 6), (0, 2)])
def test_folds_that_cannot_be(n, k):
    with pytest.raises(InputError, match=f"{n} items cannot be split into {k} folds"):
        folds(n, k)
