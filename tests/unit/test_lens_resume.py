"""A fit of a lens that is interrupted anywhere, by Ctrl-C or a kill, ends with the same lens, bit for bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from command import environment, tokenizer
from families import tiny

import dola
from dola.errors import InputError, LensError
from dola.lens import partial, windows
from dola.lens.file import read
from dola.lens.fit import partial_of
from dola.lens.quality import Table
from dola.lens.sums import Sums

TEXTS = [f"The number {number} is written {number} times {number}." for number in range(40)]


@pytest.fixture(scope="module")
def model():
    return tiny()


@pytest.fixture(scope="module")
def straight(model, save_each_time):
    return {texts: fit(model, None, texts) for texts in (True, False)}


@pytest.fixture(scope="module", autouse=True)
def save_each_time():
    with pytest.MonkeyPatch.context() as patch:
        for module, name, value in (
            (partial, "SECONDS", 0),
            (partial, "TIMES", 0),
            (windows, "BATCH", 2),
            (windows, "SAMPLE", 32),
        ):
            patch.setattr(module, name, value)
        yield


def fit(model, output, texts=True, **settings):
    given = TEXTS if texts else None
    return dola.fit_lens(model, tokenizer(), given, **{"layers": [2, 4], "tokens": 500, "output": output, **settings})


@contextmanager
def interrupted(owner, name, after):
    """Make a function raise KeyboardInterrupt after a number of calls, and expect it to end the block."""
    original, calls = getattr(owner, name), iter(range(after + 1))

    def counted(*args, **kwargs):
        if next(calls, None) == after:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, counted)
        with pytest.raises(KeyboardInterrupt):
            yield


def same(lens, other):
    assert torch.equal(lens.weight, other.weight)
    assert torch.equal(lens.bias, other.bias)
    assert torch.equal(lens.mean, other.mean)
    assert lens.facts == other.facts


@pytest.mark.parametrize(
    ("owner", "name", "after", "texts"),
    [
        pytest.param(Sums, "add", 6, True, id="between windows"),
        pytest.param(Sums, "add", 7, True, id="between the layers of a window"),
        pytest.param(Table, "add", 1, True, id="while it is judged"),
        pytest.param(windows, "_samples", 3, False, id="while the model writes"),
        pytest.param(Sums, "add", 9, False, id="after the model has written"),
    ],
)
def test_an_interrupted_fit_resumes(model, straight, tmp_path, owner, name, after, texts):
    output = tmp_path / "tiny.lens.safetensors"
    with interrupted(owner, name, after):
        fit(model, output, texts)
    assert [path.name for path in tmp_path.iterdir()] == [partial_of(output).name]
    kept = read(partial_of(output), schema=partial.SCHEMA)[1]
    assert len(kept["lengths"]) == after if owner is windows else kept["done"]
    same(fit(model, output, texts), straight[texts])
    assert [path.name for path in tmp_path.iterdir()] == [output.name]
    same(dola.Lens.load(output), straight[texts])


def test_accumulated_sums_are_not_computed_again(model, monkeypatch, tmp_path):
    output = tmp_path / "tiny.lens.safetensors"
    with interrupted(Table, "add", 0):
        fit(model, output)
    monkeypatch.setattr(Sums, "add", lambda *_: pytest.fail("added up again"))
    fit(model, output)


KILLED = """
import os, signal, sys
import test_lens_resume as here
from families import tiny
from dola.lens import partial

partial.SECONDS = partial.TIMES = 0.0
save, saves = partial.Partial.save, []

def killed(self):
    save(self)
    saves.append(self.done)
    if len(saves) == 6:
        os.kill(os.getpid(), signal.SIGKILL)

partial.Partial.save = killed
here.fit(tiny(), sys.argv[1])
"""


def test_a_killed_fit_resumes(model, straight, tmp_path):
    output, here = tmp_path / "tiny.lens.safetensors", Path(__file__).parent
    found = environment(PYTHONPATH=":".join(map(str, [here, here.parent, here.parents[1] / "src"])))
    done = subprocess.run([sys.executable, "-c", KILLED, output], env=found, check=False, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not output.exists()
    same(fit(model, output), straight[True])


@pytest.fixture
def kept(model, tmp_path):
    """The output of a fit that was interrupted."""
    output = tmp_path / "tiny.lens.safetensors"
    with interrupted(Sums, "add", 6):
        fit(model, output)
    return output


@pytest.mark.parametrize(
    ("what", "settings"),
    [("layers", {"layers": [2, 5]}), ("tokens", {"tokens": 400}), ("text", {"texts": False}), ("weights", {})],
)
def test_another_fit_is_refused_and_changes_nothing(model, kept, what, settings):
    before = partial_of(kept).read_bytes()
    other = tiny(seed=1) if what == "weights" else model
    with pytest.raises(InputError, match=rf"belongs to a different fit \({what}: .* in the file, .* now\)") as caught:
        fit(other, kept, **settings)
    assert caught.value.hint.endswith(f"rm {partial_of(kept)}")
    assert partial_of(kept).read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"not ours", None])
def test_a_damaged_file_is_refused(model, kept, content):
    file = partial_of(kept)
    file.write_bytes(file.read_bytes()[:-100] if content is None else content)
    with pytest.raises(InputError, match="is damaged, or was not written by dola"):
        fit(model, kept)


def test_two_fits_at_once_are_refused(model, kept):
    partial_of(kept).unlink()
    with partial.Partial.open(partial_of(kept), dict) as first:
        first.save()  # which replaces the file
        with pytest.raises(InputError, match="is being written by another process"):
            fit(model, kept)


def test_what_cannot_be_written_is_refused_first(model, monkeypatch, tmp_path):
    monkeypatch.setattr(Sums, "add", lambda *_: pytest.fail("began to fit"))
    with pytest.raises(LensError, match="No such file or directory"):
        fit(model, tmp_path / "missing" / "tiny.lens.safetensors")


def test_without_an_output_nothing_is_written(model, monkeypatch):
    monkeypatch.setattr(partial, "write", lambda *_, **__: pytest.fail("written"))
    fit(model, None)
