"""Results that an interrupted run continues from."""

import json

import pytest

from dola.errors import InputError
from dola.scoring.results_file import ResultsFile

NAN = float("nan")


def test_an_item_that_json_cannot_hold_is_found_again(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile.open(path, lambda: {"what": "a test"}) as kept:
        kept.add(0, {"value": 1.5})
        kept.add(1, {"value": [NAN]})
        kept.add(2, {"value": -1.0})
        assert set(kept.items) == {0, 1, 2}
    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=lambda name: 1 / 0)
    with ResultsFile.open(path, lambda: {"what": "a test"}) as kept:
        assert kept.items == {0: {"value": 1.5}, 2: {"value": -1.0}}


def opened(path, is_result=lambda item, found: True):
    with ResultsFile.open(path, lambda: {"what": "a test"}, is_result) as kept:
        return kept.items


def test_a_file_of_another_version_says_so(tmp_path):
    path = tmp_path / "results.jsonl"
    opened(path)
    path.write_text(path.read_text().replace("dola.results/1", "dola.results/2"))
    with pytest.raises(InputError, match=r"written by another version of dola: its schema is 'dola.results/2', and here it is"):
        opened(path)


def test_what_an_item_holds_is_checked(tmp_path):
    path = tmp_path / "results.jsonl"
    with ResultsFile.open(path, lambda: {"what": "a test"}) as kept:
        kept.add(0, "text")
        kept.add(1, 5)
    assert opened(path) == {0: "text", 1: 5}
    with pytest.raises(InputError, match="what it holds for item 1 is not a result of this run"):
        opened(path, lambda item, found: isinstance(found, str))
