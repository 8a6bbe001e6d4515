"""The float64 judge itself, on cases small enough to work out by hand."""

import math

import pytest

from reference.dola_float64 import contrast, jsd, plausible, reference_divergence, select

LOG = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
UNIFORM = [0.0, 0.0, 0.0, 0.0]


def test_jsd_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4), A = (3/8, 5/8)
    expected = 0.5 * (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5)) + 0.5 * (0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5))
    assert jsd([0.0, 0.0], [math.log(1), math.log(3)]) == pytest.approx(expected, abs=1e-15)


def test_jsd_of_disjoint_distributions_is_ln_2():
    assert jsd([0.0, -math.inf], [-math.inf, 0.0]) == pytest.approx(math.log(2), abs=1e-15)


def test_plausible_by_hand():
    assert plausible(LOG, 0.1) == [True, True, True, True]  # 0.05 is exactly 0.1 * 0.5
    assert plausible(LOG, 0.2) == [True, True, True, False]
    assert plausible(LOG, 1.0) == [True, False, False, False]


def test_contrast_by_hand():
    # Against a uniform layer the contrast is log(4 p); the token below the threshold is out.
    scores = contrast(LOG, [UNIFORM], relative_top=0.2)
    assert scores[:3] == pytest.approx([math.log(2), math.log(1.2), math.log(0.6)])
    assert scores[3] == -math.inf


def test_the_layer_that_differs_is_chosen_and_the_first_wins_a_tie():
    assert select(LOG, [LOG, UNIFORM], "jsd") == 1
    assert select(LOG, [UNIFORM, UNIFORM], "jsd") == 0


def test_reference_divergence_by_hand():
    # p = (1/2, 1/2), q = (1/4, 3/4), A = (3/8, 5/8): 1/2 [KL(A||p) + KL(A||q)] / 2
    from_p = 3 / 8 * math.log(3 / 4) + 5 / 8 * math.log(5 / 4)
    from_q = 3 / 8 * math.log(3 / 2) + 5 / 8 * math.log(5 / 6)
    assert reference_divergence([0.0, 0.0], [0.0, math.log(3)]) == pytest.approx((from_p + from_q) / 4, abs=1e-15)
