"""A GGUF header is parsed once while a model is loaded, and by the ordinary reader before and after."""

from importlib import metadata

import gguf
import pytest

from dola.loading.gguf_once import header_parsed_once


@pytest.fixture
def files(tmp_path):
    for name in ("one.gguf", "other.gguf"):
        writer = gguf.GGUFWriter(tmp_path / name, "llama")
        writer.add_block_count(3)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.close()
    return tmp_path / "one.gguf", tmp_path / "other.gguf"


def test_one_reader_for_the_file_and_ordinary_ones_for_all_else(files):
    file, other = files
    with header_parsed_once(file):
        first = gguf.GGUFReader(str(file))
        assert gguf.GGUFReader(file) is first
        assert gguf.GGUFReader(file, "c") is not first
        assert gguf.GGUFReader(other) is not gguf.GGUFReader(other)
    assert gguf.GGUFReader(file) is not first


def test_the_ordinary_reader_returns_after_an_error(files):
    ordinary = gguf.GGUFReader
    with pytest.raises(ValueError, match="in the middle"), header_parsed_once(files[0]):
        raise ValueError("in the middle")
    assert gguf.GGUFReader is ordinary


def test_gguf_says_its_version(files, monkeypatch):
    """Without it transformers on Python 3.10 loads no GGUF file: "Invalid version: 'N/A'"."""
    monkeypatch.delattr(gguf, "__version__", raising=False)
    with header_parsed_once(files[0]):
        assert gguf.__version__ == metadata.version("gguf")


def test_transformers_parses_the_header_of_a_model_once(smollm2, monkeypatch):
    """Loaded again, so that the reader can be counted."""
    import dola

    made = []

    class Counted(gguf.GGUFReader):
        def __init__(self, *args, **kwargs):
            made.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    dola.load("smollm2", progress=lambda line: None)
    assert len(made) == 1
