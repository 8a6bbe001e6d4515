"""The rows of a report: sets by name, and rows that a file lists."""

import json

import pytest

from dola.errors import DolaError
from dola.evidence.rows import chosen_rows, name_of, read_rows
from dola.evidence.ways import Role
from dola.methods.config import DoLaConfig


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
        ([{"layers": "low", "control": "coin"}], "'coin' is unknown; allowed are random, none"),
        ([{"layers": "low", "strenth": 1}], "strenth"),
    ],
)
def test_mistakes_are_named(tmp_path, content, said):
    with pytest.raises(DolaError, match=said):
        rows(tmp_path, content)
    with pytest.raises(DolaError, match="No such file"):
        chosen_rows(str(tmp_path / "nowhere.json"), DoLaConfig(), {}, 0)
