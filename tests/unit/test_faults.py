"""Files after faults: a killed writer, a full disk, a read-only folder, two processes, a library that is cut off."""

import os
import resource
import signal
import stat
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import environment
from killed_writers import KINDS, killed

from dola.cli.answer_file import AnswerFile
from dola.errors import LensError, UsageError
from dola.files.json_lines import JsonLines, append, open_to_append
from dola.files.whole_file import replacing, write_whole
from dola.native import build

SCHEMA = "dola.generate/1"
FORK = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@contextmanager
def small_disk():
    """Files end at 1000 bytes, as on a full disk. Inside tests alone: pytest's own output may go to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@FORK
@pytest.mark.parametrize("kind", [name for name in KINDS if "lens" not in name])
def test_a_killed_writer_leaves_a_file_that_can_be_read(kind, tmp_path):
    found = killed(*KINDS[kind], tmp_path / "file.lines", 10, 0)
    assert set(found) <= {"complete", "recovered: a cut line dropped", "no file yet"}


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "settings.json"
    write_whole(path, "old")
    with small_disk(), pytest.raises(OSError, match="File too large") as caught:
        write_whole(path, "new" * 1000)
    assert caught.value.filename == str(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_lens(tmp_path):
    import torch

    from dola.lens.file import read, write

    path = tmp_path / "lens.safetensors"
    write(path, {"map": torch.zeros(2)}, {})
    with small_disk(), pytest.raises(LensError, match="cannot be written"):
        write(path, {"map": torch.ones(1000)}, {})
    assert read(path)[0]["map"].tolist() == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_lines_of_a_full_disk_are_recovered(tmp_path):
    path = tmp_path / "results.jsonl"
    file = open_to_append(path)
    append(file, ["1" * 600 + "\n"])
    with small_disk():
        with pytest.raises(OSError, match="File too large"):
            append(file, ["2" * 600 + "\n"])
        with pytest.raises(OSError, match="File too large"):
            file.close()
    assert JsonLines(path, SCHEMA).lines == [b"1" * 600]


def test_an_error_inside_leaves_the_old_file(tmp_path):
    path = tmp_path / "page.html"
    write_whole(path, "old")

    def fail():
        with replacing(path) as partial:
            partial.write_text("half")
            raise ValueError("inside")

    with pytest.raises(ValueError, match="inside"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_permissions_stay(tmp_path):
    path, link = tmp_path / "there.json", tmp_path / "link.json"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_whole(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_pipe_is_written_in_place(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", str(pipe)], stdout=subprocess.PIPE, env=environment()) as reader:
        write_whole(pipe, "words")
        assert reader.communicate()[0] == b"words"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_device_that_is_full_is_an_error():
    with pytest.raises(OSError, match="No space left"):
        write_whole(Path("/dev/full"), "words")


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch, exists, caplog):
    path = tmp_path / "page.html"
    if exists:
        path.write_text("old")
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write everywhere
    monkeypatch.setattr("pathlib.Path.touch", lambda self: os.stat("/nowhere/file"))
    if exists:
        write_whole(path, "new")
        assert path.read_text() == "new"
        assert "written in place" in caplog.text
    else:
        with pytest.raises(OSError, match="No such file"):
            write_whole(path, "new")


def test_two_processes_on_one_answer_file(tmp_path):
    path = tmp_path / "answers.jsonl"
    first, second, late = (AnswerFile(path, SCHEMA) for _ in range(3))
    first.take_up([], "model", {})
    with pytest.raises(UsageError, match="another process is writing to it"):
        second.take_up([], "model", {})
    path.write_bytes(b"a line\n")
    del first
    with pytest.raises(UsageError, match="another process wrote to it after this one read it"):
        late.take_up([], "model", {})
    assert path.read_bytes() == b"a line\n"


@pytest.mark.parametrize(
    "damage", [lambda held: held[:-1], lambda held: held[: len(held) // 2], lambda held: b"", lambda held: b"x" + held]
)
def test_a_library_that_is_damaged_is_not_loaded(tmp_path, damage):
    library = tmp_path / "kernels.so"
    library.write_bytes(b"machine code")
    build._seal(library)
    assert build._is_sealed(library)
    library.write_bytes(damage(library.read_bytes()))
    assert not build._is_sealed(library)


def test_a_library_is_compiled_again_when_it_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "_run", lambda *command: Path(command[-1]).write_bytes(b"machine code"))
    openmp = tmp_path / "libgomp.so"
    path = build._compiled(openmp)
    whole = path.read_bytes()
    path.write_bytes(whole[:5])
    assert build._compiled(openmp) == path
    assert path.read_bytes() == whole


@pytest.mark.parametrize("what", ["_processor", "FLAGS", "openmp"])
def test_a_cache_of_another_machine_is_not_used(tmp_path, monkeypatch, what):
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path))
    monkeypatch.setattr(build, "_run", lambda *command: Path(command[-1]).write_bytes(b"machine code"))
    before = build._compiled(tmp_path / "libgomp.so")
    if what == "_processor":
        monkeypatch.setattr(build, what, lambda: b"another processor")
    elif what == "FLAGS":
        monkeypatch.setattr(build, what, ("-O1",))
    after = build._compiled(tmp_path / ("other.so" if what == "openmp" else "libgomp.so"))
    assert before != after
