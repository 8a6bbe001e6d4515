"""docs/requests.md is what tests/requests_page.py makes."""

from pathlib import Path

from every_request import CASES
from requests_page import page


def test_the_page_is_fresh():
    assert (Path(__file__).parents[2] / "docs" / "requests.md").read_text() == page(), "run: make docs"


def test_every_case_is_listed_once():
    listed = [(case.door, case.asked) for case in CASES]
    assert len(set(listed)) == len(listed)
