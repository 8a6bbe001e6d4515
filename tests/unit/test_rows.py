"""The rows of a report: sets by name, and rows that a file lists."""

import json

import pytest

from dola.errors import DolaError
from dola.evidence.rows import chosen_rows, decoded_rows, name_of, read_rows
from dola.evidence.ways import Role, choice_ways, harness_choice_ways
from dola.methods.config import DoLaConfig
from dola.tasks import TASKS


def rows(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_rows(path, {"relative_top": 0.0})


def test_rows_of_a_file_have_the_settings_of_the_task_unless_they_name_them(tmp_path):
    first, second, third = rows(
        tmp_path,
        [{"layers": "low"}, {"layers": [3], "relative_top": 0.2, "name": "mine"}, {"layers": "low", "control": "random"}],
    )
    assert (first.name, first.recipe.dola) == ("DoLa low", DoLaConfig("low", relative_top=0.0))
    assert (second.name, second.recipe.dola) == ("mine", DoLaConfig([3], relative_top=0.2))
    assert (third.name, third.role, third.recipe.premature) == ("DoLa low, random layer", Role.CONTROL, "random")


def test_names_say_what_is_not_usual():
    assert name_of(DoLaConfig("high", final_norm=False)) == "DoLa high, no final norm"


def test_the_full_set_varies_strength_and_scores_and_reshapes_the_plausible_set():
    found = chosen_rows("full", DoLaConfig("high", relative_top=0.0), {}, 0)[0]
    rows = {way.name: way for way in found}
    for name in ("DoLa high, distribution scores", "DoLa high, strength 0.25", "DoLa high, strength 0.5"):
        assert rows[name].role is Role.METHOD
    flat = rows["plausible set made uniform, relative_top 0.1"]
    assert (flat.role, flat.recipe.premature, flat.recipe.dola.relative_top) == (Role.CONTROL, "flat", 0.1)
    assert rows["plausible set sharpened, relative_top 0.1"].recipe.premature == "sharp"
    assert "plausible set sharpened" in [way.name for way in chosen_rows("full", DoLaConfig(), {}, 0)[0]]


def test_controls_of_likelihoods_are_not_decoded_with(tmp_path):
    listed, _ = chosen_rows("full", DoLaConfig(), {}, 0)
    assert [way.name for way in decoded_rows(listed, "full")] == [way.name for way in listed if way.role is Role.METHOD]
    asked = rows(tmp_path, [{"layers": "low", "control": "sharp"}])
    with pytest.raises(DolaError, match="'DoLa low, plausible set sharpened' is a control of likelihoods"):
        decoded_rows(asked, tmp_path / "rows.json")


def test_the_standard_rows_of_a_distribution():
    """Its constraint alone is vanilla, and F that is not normalized is the contrast's."""
    own = DoLaConfig("high", scores="distribution", strength=0.5)
    ways = {way.name: way for way in choice_ways(TASKS["factor-news"], own)}
    assert "constraint alone" not in ways
    assert ways["DoLa low, not normalized"].recipe.dola == DoLaConfig("low", strength=0.5)
    assert ways["DoLa low"].recipe.dola == DoLaConfig("low", scores="distribution", strength=0.5)
    assert "constraint alone" not in [way.name for way in harness_choice_ways(own, seed=0)]
    assert "constraint alone" in [way.name for way in harness_choice_ways(DoLaConfig("high"), seed=0)]


def test_sets(toy):
    assert chosen_rows("standard", DoLaConfig(), {}, 0) == ([], True)
    names = [way.name for way in chosen_rows("methods", DoLaConfig(), {}, 0)[0]]
    assert names[0] == "DoLa high"
    assert any("toy" in name for name in names)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("{}", "does not hold a list of rows"),
        ("[]", "does not hold a list of rows"),
        ([{"layers": "low"}, {"layers": "low"}], "two rows 'DoLa low'"),
        ([{"layers": "low", "control": "coin"}], "'coin' is unknown; allowed are random, none, flat, sharp"),
        ([{"layers": "low", "strenth": 1}], "strenth"),
    ],
)
def test_mistakes_are_named(tmp_path, content, said):
    with pytest.raises(DolaError, match=said):
        rows(tmp_path, content)
    with pytest.raises(DolaError, match="No such file"):
        chosen_rows(str(tmp_path / "nowhere.json"), DoLaConfig(), {}, 0)
