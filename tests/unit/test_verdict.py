"""Verdicts: what is tested, at which level, and what is said."""

import math

import numpy as np
import pytest

from dola.errors import InputError
from dola.evidence.finding import Verdict
from dola.evidence.looks import ends, nominal_levels, spent
from dola.evidence.paired import differences, interval, p_values, sign_flip
from dola.evidence.verdict import decide, holm, items_needed, judge


def right_or_wrong(n, up, down):
    """Baseline and row of n items of which `up` get better and `down` worse."""
    baseline = [0] * up + [1] * down + [1] * (n - up - down)
    row = [1] * up + [0] * down + [1] * (n - up - down)
    return baseline, row


def test_the_four_verdicts():
    findings = {
        name: judge(*(lambda pair: (pair[0], {"row": pair[1]}))(right_or_wrong(n, up, down)))["row"]
        for name, (n, up, down) in {
            "better": (400, 60, 10),
            "worse": (400, 10, 60),
            "no difference": (4000, 20, 20),
            "cannot tell": (100, 8, 5),
        }.items()
    }
    assert {name: found.verdict.value for name, found in findings.items()} == {name: name for name in findings}
    assert findings["better"].difference == pytest.approx(50 / 400)


def test_the_sentence_has_the_verdict_first_and_says_how_many_items_would_tell():
    baseline, row = right_or_wrong(412, 51, 54)
    found = judge(baseline, {"DoLa high": row} | {f"other {i}": row for i in range(15)})["DoLa high"]
    sentence = found.sentence("DoLa high", "questions")
    assert sentence.startswith("DoLa high: cannot tell. -0.7 points (-")
    assert sentence.endswith("on 412 questions; detecting 2 points needs about 9,200.")


def test_a_lower_value_may_be_the_better_one():
    baseline, row = right_or_wrong(400, 10, 60)
    assert judge(baseline, {"row": row}, higher_is_better=False)["row"].verdict is Verdict.BETTER


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_one_row_of_many_has_to_be_clearer_than_one_alone():
    baseline, row = right_or_wrong(200, 25, 10)  # McNemar p = 0.017
    same = {f"same {i}": baseline for i in range(9)}
    assert judge(baseline, {"row": row})["row"].verdict is Verdict.BETTER
    among = judge(baseline, {"row": row, **same})["row"]
    assert among.verdict is Verdict.CANNOT_TELL
    assert among.disagrees


def test_sign_flips_of_few_units_are_all_tried():
    units = np.array([[1.0], [2.0], [3.0]])
    assert sign_flip(units) == pytest.approx([2 / 8])  # only all plus and all minus reach 6


def test_sign_flips_agree_with_mcnemar_on_right_and_wrong():
    apart = differences(*(lambda pair: (pair[0], {"row": pair[1]}))(right_or_wrong(300, 40, 22)))
    assert sign_flip(apart)[0] == pytest.approx(p_values(apart, binary=True)[0], abs=0.01)


def test_groups_are_the_units():
    """Eight copies of the same item are not eight items."""
    baseline, row = right_or_wrong(20, 9, 1)
    alone = judge(baseline, {"row": row})["row"]
    copied = judge(
        [value for value in baseline for _ in range(8)],
        {"row": [value for value in row for _ in range(8)]},
        groups=[i for i in range(20) for _ in range(8)],
    )["row"]
    assert copied.difference == pytest.approx(alone.difference)
    assert copied.p_value == pytest.approx(alone.p_value, abs=0.01)
    assert copied.high - copied.low == pytest.approx(alone.high - alone.low, rel=0.05)


def test_thresholds_of_looks_are_those_of_the_literature():
    levels = nominal_levels(0.05, [0.25, 0.5, 0.75, 1.0])  # gsDesign, sfLDOF: z = 4.333, 2.963, 2.359, 2.014, two-sided
    z = [4.333, 2.963, 2.359, 2.014]
    assert levels == pytest.approx([math.erfc(each / math.sqrt(2)) for each in z], rel=0.02)
    assert nominal_levels(0.05, [1.0]) == (0.05,)
    assert spent(0.05, 1.0) == 0.05


def test_a_sequential_run_stops_where_it_is_clear_and_spends_its_level_over_the_looks():
    generator = np.random.default_rng(0)
    baseline = (generator.random(400) < 0.5).astype(float)
    row = np.where(generator.random(400) < 0.4, 1.0, baseline)
    looks = ends(400)
    half = judge(baseline[:200], {"row": row[:200]}, looks=looks)["row"]
    assert half.verdict is Verdict.BETTER
    assert half.items <= 200
    assert judge(baseline, {"row": row}, looks=looks)["row"].items == half.items
    assert decide(np.array([[0.01], [0.2]]), [0.5, 1.0]) == [None]  # 0.01 at half would do at the end only


@pytest.mark.parametrize("binary", [True, False], ids=["right or wrong", "other values"])
@pytest.mark.parametrize("sequential", [False, True], ids=["at once", "looks"])
@pytest.mark.parametrize("cluster", [1, 8], ids=["items", "groups"])
def test_where_nothing_differs_few_reports_claim_it(binary, sequential, cluster):
    """`benchmarks/verdicts.py` runs 1,000 of each; here so many that a level of 20% would fail with certainty."""
    from dola.evidence.simulate import claims

    assert claims(runs=60, rows=16, items=160, effect=0.0, binary=binary, sequential=sequential, cluster=cluster) <= 10


def test_a_difference_of_ten_points_is_found():
    from dola.evidence.simulate import claims

    assert claims(runs=60, rows=16, items=400, effect=0.1, discordant=0.2) >= 50


def test_items_needed_grow_with_the_family_and_the_square_of_the_size():
    assert items_needed(0.25, 0.02) == pytest.approx(4 * items_needed(0.25, 0.04), rel=0.001)
    assert items_needed(0.25, 0.02, family=16) == pytest.approx(9_000, rel=0.01)
    assert items_needed(0.0, 0.02) is None


@pytest.mark.parametrize(
    ("baseline", "row", "extra", "said"),
    [
        ([], [], {}, "no values"),
        ([1, 0], [1], {}, "same items"),
        ([1, math.nan], [1, 0], {}, "not finite"),
        ([1, 0], [1, 0], {"groups": ["a"]}, "1 groups are named for 2 items"),
        ([1, 0], [1, 0], {"looks": [1, 4]}, "end between the looks"),
        ([1, 0], [1, 0], {"smallest": 0}, "smallest=0 is out of range"),
    ],
)
def test_mistakes_are_named(baseline, row, extra, said):
    with pytest.raises(InputError, match=said):
        judge(baseline, {"row": row}, **extra)


def test_values_that_never_differ_have_an_interval_without_width():
    assert interval(np.zeros(10)) == (0.0, 0.0)
    found = judge([1, 0, 1], {"row": [1, 0, 1]})["row"]
    assert (found.p_value, found.needed, found.verdict) == (1.0, None, Verdict.CANNOT_TELL)
    assert judge([1] * 500, {"row": [1] * 500})["row"].verdict is Verdict.NO_DIFFERENCE
