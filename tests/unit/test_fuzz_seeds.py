"""Files that once broke a reader, found by the fuzzer or by hand. Each now gives a clear error, or is read."""

import json
import struct

import pytest
import torch
from fuzz_files import fuzz, gguf, lens, read_gguf, read_lens
from safetensors.torch import save_file

from dola.errors import LensError, ModelFileError
from dola.lens.lens import Lens
from dola.loading.gguf_header import read_header
from dola.loading.names import check_gguf

MAP, BIAS = torch.eye(4).repeat(2, 1, 1), torch.zeros(2, 4)
FACTS = {"schema": "dola.lens/1", "kind": "tuned", "layers": [1, 2]}

LENSES = {
    "layers that are not whole numbers": ({"weight": MAP, "bias": BIAS}, {**FACTS, "layers": [1, 2.5]}),
    "layers that are true and false": ({"weight": MAP, "bias": BIAS}, {**FACTS, "layers": [True, False]}),
    "a layer that is a list": ({"weight": MAP, "bias": BIAS}, {**FACTS, "layers": [[1], 2]}),
    "maps of whole numbers": ({"weight": MAP.long(), "bias": BIAS}, FACTS),
    "a mean of whole numbers": ({"weight": MAP, "bias": BIAS, "mean": BIAS.int()}, FACTS),
    "maps without a bias": ({"weight": MAP}, FACTS),
    "fewer layers than maps": ({"weight": MAP, "bias": BIAS}, {**FACTS, "layers": [1]}),
    "an infinite bias": ({"weight": MAP, "bias": BIAS + float("inf")}, FACTS),
}
METADATA = {
    "half a value": "{",
    "a field that is listed twice": '{"schema": "dola.lens/1", "schema": "dola.lens/1"}',
    "nested too deeply": "[" * 100_000,
    "a number of thousands of digits": "9" * 5000,
    "not an object": "[]",
}


@pytest.mark.parametrize("name", LENSES)
def test_a_lens_with_wrong_parts(name, tmp_path):
    tensors, facts = LENSES[name]
    save_file(tensors, tmp_path / "x.safetensors", {"dola": json.dumps(facts)})
    with pytest.raises(LensError, match=r"is not a lens that this version reads|has NaN or infinite numbers"):
        Lens.load(tmp_path / "x.safetensors")


@pytest.mark.parametrize("name", METADATA)
def test_a_lens_whose_metadata_is_not_json(name, tmp_path):
    save_file({"weight": MAP, "bias": BIAS}, tmp_path / "x.safetensors", {"dola": METADATA[name]})
    with pytest.raises(LensError, match=r"its metadata does not say 'dola\.lens/1'"):
        Lens.load(tmp_path / "x.safetensors")


def test_a_lens_that_is_a_device():
    """Reading a device would never end."""
    with pytest.raises(LensError, match="neither a file nor a hub id"):
        Lens.load("/dev/zero")


def _text(words):
    return struct.pack("<Q", len(words)) + words.encode()


def _header(*pairs, tensors=0):
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, len(pairs)) + b"".join(pairs)


SPLIT = _text("split.count") + struct.pack("<IH", 2, 3)
PARTS = {
    "a word": (_text("split.no") + struct.pack("<I", 8) + _text("two"), "is a part of a model that was split into 3"),
    "a list": (_text("split.no") + struct.pack("<IIQB", 9, 0, 1, 7), "is part 1 of a model"),
    "a fraction": (_text("split.no") + struct.pack("<If", 6, 1.5), "is a part of a model that was split into 3"),
    "a number": (_text("split.no") + struct.pack("<IH", 2, 1), "is part 2 of a model that was split into 3"),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_split_file_whose_part_is(name, tmp_path):
    pair, words = PARTS[name]
    (tmp_path / "x.gguf").write_bytes(_header(SPLIT, pair))
    with pytest.raises(ModelFileError, match=words):
        check_gguf(tmp_path / "x.gguf")


HEADERS = {
    "a list that leads to no place": _header(_text("t") + struct.pack("<IIQ", 9, 10, 2**60 - 1)),
    "a list that leads too far": _header(_text("t") + struct.pack("<IIQ", 9, 10, 2**64 - 1)),
    "a text that is longer than memory": _header(_text("t") + struct.pack("<IQ", 8, 2**62)),
    "a text that is longer than numbers": _header(_text("t") + struct.pack("<IQ", 8, 2**64 - 1)),
    "lists in lists": _header(_text("t") + struct.pack("<IIQ", 9, 9, 1) + struct.pack("<IQ", 9, 1) * 5000),
    "more values than it holds": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63),
    "more tensors than it holds": b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0),
    "a tensor of 2**32 - 1 dimensions": _header(tensors=1) + _text("w") + struct.pack("<I", 2**32 - 1),
    "a type that does not exist": _header(_text("t") + struct.pack("<I", 77)),
    "a name that is not UTF-8": _header(struct.pack("<Q", 2) + b"\xff\xfe" + struct.pack("<IB", 0, 1)),
    "nothing": b"",
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_cannot_be_read(name, tmp_path):
    (tmp_path / "x.gguf").write_bytes(HEADERS[name])
    assert read_header(tmp_path / "x.gguf") is None


LENS_SEEDS = (218, 379, 503, 956, 1036, 1039, 1040, 1463, 2085)
"""Metadata that is not JSON, in the fuzzer's numbers: 51 of the first 10,375 files raised JSONDecodeError."""
GGUF_SEEDS = (40, 60, 81, 129, 135, 230, 245, 307, 309, 341)
"""Lengths that lead nowhere: 249 of the first 10,772 files raised OSError."""


def test_seeds_that_once_failed(tmp_path):
    for good, read, seeds in ((lens(tmp_path), read_lens, LENS_SEEDS), (gguf(), read_gguf, GGUF_SEEDS)):
        assert fuzz(good, read, tmp_path / "fuzzed", seeds) == (len(seeds), [])
