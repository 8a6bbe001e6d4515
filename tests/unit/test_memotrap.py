"""MemoTrap: any file of its layout becomes items; an ending joins its prompt as written, and the first of equals wins."""

import json

import pytest

from dola.errors import DataError
from dola.evidence.sample import Sample
from dola.tasks import TASKS, memotrap
from dola.tasks.items import ChoiceItem, share_of_right

MEMOTRAP = TASKS["memotrap"]
QUOTE = '"Write a quote that ends in ""salt"": Bread and"'
TABLE = f"""prompt,classes,answer_index
{QUOTE},"[' salt.', ' butter.']",0
"Which?
A. One.
B. Two.
Answer:","["" A"", "" B""]",1
"It's what we","['\\n\\'say\\'', "" don't"", ' do']",2
"""
ROW = {"prompt": "One and", "classes": [" two", " three"], "answer_index": 1}
THREE = ChoiceItem("1", "Q", (" a", " bb", " c"), (False, True, False), best=1)


@pytest.fixture
def written(tmp_path):
    """Writes a file and returns its path."""

    def write(name, content):
        (tmp_path / name).write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return tmp_path / name

    return write


def test_a_table_becomes_items(written):
    first, second, third = MEMOTRAP.items(written("mine.csv", TABLE))
    assert (first.context, first.continuations) == ('Write a quote that ends in "salt": Bread and', (" salt.", " butter."))
    assert (first.id, first.correct, first.best) == ("1", (True, False), 0)
    assert (second.context, second.continuations) == ("Which?\nA. One.\nB. Two.\nAnswer:", (" A", " B"))
    assert (second.correct, second.best) == ((False, True), 1)
    assert third.continuations == ("\n'say'", " don't", " do")
    assert third.correct == (False, False, True)


def test_json_with_more_fields_becomes_the_same_items(written):
    (item,) = MEMOTRAP.items(written("mine.jsonl", {**ROW, "split": "round2", "part": 3}))
    assert (item.context, item.continuations, item.best) == ("One and", (" two", " three"), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer_index": 2}, "the field 'answer_index' is 2; allowed are 0, 1, one for each ending"),
        ({"answer_index": -1}, "the field 'answer_index' is -1; allowed are 0, 1"),
        ({"answer_index": True}, "the field 'answer_index' is True; allowed are 0, 1"),
        ({"answer_index": 1.0}, "the field 'answer_index' is 1.0; allowed are 0, 1"),
        ({"answer_index": "second"}, "the field 'answer_index' is 'second'; allowed are 0, 1"),
        ({"classes": [" two"]}, r"the field 'classes' is \[' two'\]; it needs two or more endings"),
        ({"classes": [" two", " "]}, "the field 'classes' is .*; it needs two or more endings, none of them empty"),
        ({"classes": "two, three"}, "the field 'classes' is text, not a list of texts"),
        ({"prompt": ""}, "the field 'prompt' is empty"),
    ],
)
def test_invalid_rows_are_named(written, change, message):
    with pytest.raises(DataError, match=f"row 1: {message}") as error:
        MEMOTRAP.items(written("mine.json", [{**ROW, **change}]))
    assert error.value.hint


@pytest.mark.parametrize(
    ("scores", "tokens", "found"),
    [
        ([-4.0, -3.0, -5.0], [1, 1, 1], (1.0, 1.0)),
        ([-4.0, -4.0, -5.0], [1, 1, 1], (0.0, 0.0)),  # the first of equals wins
        ([-4.0, -3.0, -3.0], [1, 1, 1], (1.0, 1.0)),
        ([-4.0, -3.0, -5.0], [2, 1, 1], (1.0, 0.0)),  # the mean of the first is higher
        ([-4.0, -5.0, -6.0], [1, 2, 2], (0.0, 1.0)),
    ],
)
def test_metrics_by_hand(scores, tokens, found):
    assert tuple(memotrap.metrics(THREE, scores, tokens).values()) == found
    assert share_of_right(THREE) == 1 / 3


def test_a_folder_may_hold_some_of_the_files(written, tmp_path):
    for name in ("4-history-of-science-qa.csv", "1-proverb-ending.csv"):
        written(name, TABLE)
    sample = Sample.of(MEMOTRAP, [str(tmp_path)])
    assert [origin.name for origin in sample.origins] == [
        str(tmp_path / "1-proverb-ending.csv"),
        str(tmp_path / "4-history-of-science-qa.csv"),
    ]
    assert (len(sample.items), len({item.id for item in sample.items})) == (6, 6)


def test_a_folder_with_none_of_the_files_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"1-proverb-ending\.csv' cannot be read: No such file"):
        Sample.of(MEMOTRAP, [str(tmp_path)])


def test_the_error_without_data_names_all_files():
    with pytest.raises(
        DataError, match=r"its data files are 1-proverb-ending\.csv, .* or 4-history-of-science-qa\.csv\."
    ) as error:
        MEMOTRAP.items()
    assert error.value.hint == "download them from https://github.com/liujch1998/memo-trap and give their path"


@pytest.mark.parametrize(
    ("name", "count", "first"), [("1-proverb-ending.csv", 860, 448), ("4-history-of-science-qa.csv", 736, 370)]
)
def test_published_files(published, name, count, first):
    data = MEMOTRAP.open(published(f"memotrap/{name}"))
    items = MEMOTRAP.items(data)
    assert [origin.known for origin in data.origins] == [True]
    assert (len(items), sum(item.best == 0 for item in items)) == (count, first)
    assert all(len(item.continuations) == 2 and not item.context.endswith(" ") for item in items)
    assert all(ending.startswith(" ") for item in items for ending in item.continuations)


def test_every_file_beside_them_has_this_layout(published):
    """Any file of the data folder, so that one that is added is tried too."""
    for path in sorted(published("memotrap/1-proverb-ending.csv").parent.glob("*.csv")):
        assert all(sum(item.correct) == 1 and item.correct[item.best] for item in MEMOTRAP.items(path))
