"""The chart of a lens: R², KL and agreement by layer, the lens beside the final norm; what cannot be drawn is refused first."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch
from typer.testing import CliRunner

import dola
from dola.cli.app import app
from dola.errors import ConfigError, UsageError
from dola.plot.lens import draw, save_chart

TABLE = [
    {"layer": 3, "r2": 0.5, "kl": 2.0, "top1": 0.25, "norm_kl": 16.0, "norm_top1": 0.05},
    {"layer": 5, "r2": 0.8, "kl": 0.5, "top1": 0.75, "norm_kl": 4.0, "norm_top1": 0.5},
]


def drawn(axes):
    """What was plotted on axes: label -> values by layer."""
    return {call.kwargs["label"]: list(zip(*call.args, strict=True)) for call in axes.plot.call_args_list}


def test_each_figure_is_drawn_beside_the_norms():
    panels = [MagicMock() for _ in range(3)]
    draw(panels, TABLE)
    assert drawn(panels[0]) == {"lens": [(3, 0.5), (5, 0.8)]}
    assert drawn(panels[1]) == {"lens": [(3, 2.0), (5, 0.5)], "final norm": [(3, 16.0), (5, 4.0)]}
    assert drawn(panels[2]) == {"lens": [(3, 25.0), (5, 75.0)], "final norm": [(3, 5.0), (5, 50.0)]}


def test_a_tuned_lens_has_no_share_of_variance():
    panels = [MagicMock() for _ in range(3)]
    draw(panels, [{**row, "r2": None} for row in TABLE])
    assert drawn(panels[0]) == {"lens": []}


def test_chart_file(tmp_path):
    pytest.importorskip("matplotlib")
    save_chart(TABLE, "model$a$b", tmp_path / "a.svg")
    assert "<svg" in (tmp_path / "a.svg").read_text()


def saved(folder, table):
    lens = dola.Lens("linear", (3, 5), torch.zeros(2, 4, 4), torch.zeros(2, 4), None, {"model": "a/b", "table": table})
    lens.save(folder / "a.lens.safetensors")
    return folder / "a.lens.safetensors"


def show(*arguments):
    return CliRunner().invoke(app, ["lens", "show", *map(str, arguments)])


def test_show_writes_a_chart(tmp_path):
    pytest.importorskip("matplotlib")
    done = show(saved(tmp_path, TABLE), "--chart", tmp_path / "a.png")
    assert done.exit_code == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_chart_of_nothing_and_unknown_formats_are_refused(tmp_path):
    pytest.importorskip("matplotlib")
    error = show(saved(tmp_path, []), "--chart", tmp_path / "a.png").exception
    assert isinstance(error, UsageError)
    assert "has no table of its layers" in error.message
    error = CliRunner().invoke(app, ["lens", "fit", "missing", "--output", str(tmp_path / "x"), "--chart", "a.doc"]).exception
    assert isinstance(error, ConfigError)
    assert "must end in .png, .svg, .pdf" in error.message
