"""`make transformers-tests`: what counts as run, refused and failed, and why it cannot run."""

import pytest
from transformers_tests import main, report, version_of


def _line(outcome="passed", attached=1, why=""):
    return {"outcome": outcome, "attached": attached, "why": why}


def test_the_report_counts_what_ran_with_dola():
    plain = {name: _line(attached=0) for name in "abcd"} | {"broken": _line("failed", 0), "gone": _line("skipped", 0)}
    one = {
        "f.py::a": _line(),
        "f.py::b": _line("failed", 1, "dola.errors.InputError: not\n compatible"),
        "f.py::c": _line("failed", 2, "AssertionError: lengths"),
        "f.py::d": _line(attached=0),  # a model without a head
        "f.py::broken": _line("failed", 1, "AssertionError"),  # and plainly too
    }
    rows, reasons = report({"plain": {f"f.py::{name}": line for name, line in plain.items()}, "one": one, "all": {}})
    assert rows == [
        "plain: 4 of 6 pass; others fail or are skipped",
        "attached, one candidate: 3 run with it, 1 pass, 1 refused, 1 fail",
        "attached, all candidates: 0 run with it, 0 pass, 0 refused, 0 fail",
    ]
    assert reasons == ["one: b\n    dola.errors.InputError: not compatible", "one: c\n    AssertionError: lengths"]


def test_without_a_checkout_it_says_what_is_missing(tmp_path):
    for arguments in ([], [str(tmp_path)]):
        with pytest.raises(SystemExit, match="Skipped: it needs a checkout of transformers"):
            main(arguments)


def test_tests_of_another_version_are_not_run(tmp_path):
    for file in ("tests/generation/test_utils.py", "src/transformers/__init__.py"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text('__version__ = "4.1.0"\n')
    assert version_of(tmp_path) == "4.1.0"
    with pytest.raises(SystemExit, match=r"is transformers 4\.1\.0, and .* is installed"):
        main([str(tmp_path)])
