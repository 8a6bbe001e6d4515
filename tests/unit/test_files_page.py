"""tests/README.md lists every file of tests with its promise, as tests/files_page.py makes it."""

from files_page import README, page, table


def test_the_table_is_fresh():
    assert README.read_text("utf-8") == page(), "run: python tests/files_page.py"


def test_every_file_has_a_promise():
    assert "|  |" not in table()
