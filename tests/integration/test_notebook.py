"""The notebook runs from top to bottom, and its committed outputs are what it prints."""

import re

import pytest
from notebook import NOTEBOOK, read, run

from dola.installed.hints import install_line

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?%?")


@pytest.fixture(autouse=True)
def _needs_the_extra():
    for package in ("nbclient", "ipykernel", "matplotlib", "pandas"):
        pytest.importorskip(package, reason=f"{package} is not installed: {install_line('notebook')}")


def outputs(notebook):
    """What each code cell gave: its printed text, and the kinds of its other outputs."""
    found = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            text = "".join(each.text for each in cell.outputs if each.output_type == "stream")
            found.append((text, [sorted(each.data) for each in cell.outputs if each.output_type != "stream"]))
    return found


def value(number):
    return float(number.rstrip("%"))


@pytest.mark.usefixtures("smollm2")
def test_the_notebook_says_what_comes_out():
    committed = read()
    fresh = run(read())
    assert [cell.source for cell in fresh.cells] == [cell.source for cell in committed.cells]
    for (text, kinds), (expected, expected_kinds) in zip(outputs(fresh), outputs(committed), strict=True):
        assert kinds == expected_kinds
        assert NUMBER.sub("#", text) == NUMBER.sub("#", expected), "make notebook"
        found, wanted = ([value(number) for number in NUMBER.findall(each)] for each in (text, expected))
        assert found == pytest.approx(wanted, rel=0.03, abs=0.011), f"{text}\nmake notebook"


def test_the_notebook_was_run_from_the_top_and_is_small():
    notebook = read()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert NOTEBOOK.stat().st_size < 600_000
    assert sum("image/png" in data for _, kinds in outputs(notebook) for data in kinds) == 4
    assert sum("text/html" in data for _, kinds in outputs(notebook) for data in kinds) == 1
    assert "/root" not in NOTEBOOK.read_text()
    assert "/home" not in NOTEBOOK.read_text()
    assert not any(each.output_type == "error" or each.get("name") == "stderr" for cell in cells for each in cell.outputs)


def test_the_notebook_claims_what_its_outputs_show():
    """Each sentence that names a number is compared with the output it is about."""
    notebook = read()
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    shown = [text for text, _ in outputs(notebook)]
    first, second = shown[1], shown[2]
    assert '" Olymp" is number 30 in its list' in prose
    assert 'continues with " Olymp", rank 30 in the last layer' in first
    assert 'so DoLa chooses it; the text continues with " Olymp"' in first
    assert '" Seattle" gained most' in first
    assert 'the last layer puts " Seattle" first' in second
    assert '" Olymp" gained most' in second
    assert second.count("DoLa chooses it") == 1
    for text in (first, second):
        by_layer = {
            int(layer): (float(a), float(b)) for layer, a, b in re.findall(r"layer (\d+): Seattle (\S+), Olymp (\S+)", text)
        }
        assert by_layer[27][0] > by_layer[27][1]
        assert by_layer[28] == pytest.approx(by_layer[28][::-1], rel=0.3), "neither is far ahead in layer 28"
        assert by_layer[29][0] < by_layer[29][1]
        assert by_layer[30][0] > by_layer[30][1]
        assert max(by_layer[15]) < 1e-17
    settled, never = shown[4].splitlines()
    for word in ("' in'", "' the'", "'1'", "'9'", "'8'"):
        assert word in settled
    for word in ("'ole'", "' Soy'", "'inka'", "' Nobel'", "'6'", "' was'", "' to'", "' be'"):
        assert word in never
    assert "Seattle" in shown[6].partition("dola")[0]
    assert "Seattle" in shown[6].partition("dola")[2]
