"""`dola.load`: names, files, and error messages. No network: HF_HUB_OFFLINE is set for all tests."""

import importlib
import json
import re
from types import SimpleNamespace

import gguf
import huggingface_hub
import numpy as np
import pytest
import torch
import transformers
from families import tiny
from huggingface_hub.errors import GatedRepoError, LocalEntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
from transformers import AutoModelForCausalLM, T5Config, T5ForConditionalGeneration
from words import word_tokenizer

import dola
from dola.errors import InputError, MissingExtraError, ModelError, ModelFileError
from dola.installed.hints import install_line, pip_install
from dola.loading import embedded

models = importlib.import_module("dola.loading.models")
NO_SUCH = {"response": SimpleNamespace(headers={}, request=None, status_code=404)}


@pytest.fixture
def folder(tmp_path):
    """A folder with a tiny model and a tokenizer that fits it."""
    tiny("llama").save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm3", "'smollm3' is neither a folder nor an embedded model. Embedded models: smollm2, gemma3-270m"),
        ("./nowhere", "The folder './nowhere' does not exist"),
        ("/no/such/folder", "The folder '/no/such/folder' does not exist"),
        ("nothing.gguf", "The file 'nothing.gguf' does not exist"),
    ],
)
def test_names_that_are_not_models(name, message):
    with pytest.raises(ModelFileError, match=message) as caught:
        dola.load(name)
    assert "a hub id" in caught.value.hint


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelFileError, match=r"does not hold a model: it has no config\.json"):
        dola.load(tmp_path)


def test_a_hub_id_without_a_network(monkeypatch):
    """HF_HUB_OFFLINE is set for all tests: the ordinary code runs, and its failure becomes a message."""
    with pytest.raises(
        ModelFileError, match=r"'nobody/nothing' is not in the hub's cache(.|\n)*the hub cannot be reached"
    ) as caught:
        dola.load("nobody/nothing")
    assert "network" in caught.value.hint


def test_a_hub_that_cannot_be_reached_is_asked_for_one_file(monkeypatch, tmp_path):
    """Its client tries each request for half a minute."""
    requested, cache = [], tmp_path
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))

    def unreachable(repo, file, **_):
        requested.append(file)
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr(transformers.utils.hub, "hf_hub_download", unreachable)
    with pytest.raises(ModelFileError, match="the hub cannot be reached"):
        dola.load("nobody/nothing")
    assert requested == ["config.json"]
    (cache / "models--nobody--nothing" / "snapshots").mkdir(parents=True)
    with pytest.raises(ModelFileError, match="the hub cannot be reached"):
        dola.load("nobody/nothing")
    assert requested[1] != "config.json"  # something of it may be here: the ordinary code looks


def test_a_file_that_is_not_gguf(tmp_path):
    path = tmp_path / "text.gguf"
    path.write_text("hello")
    with pytest.raises(ModelFileError, match="is not a GGUF file: it starts with b'hell'"):
        dola.load(path)


@pytest.mark.parametrize("length", [4, 20, 100, 50_000, 20_000_000, -1])
def test_a_truncated_gguf(tmp_path, smollm2, length):
    whole = embedded.fetch("smollm2")
    path = tmp_path / "short.gguf"
    path.write_bytes(whole.read_bytes()[:length])
    with pytest.raises(ModelFileError, match=r"short\.gguf cannot be read as a GGUF file") as caught:
        dola.load(path)
    assert "truncated" in caught.value.hint


def test_a_wrong_argument_is_not_blamed_on_the_file(smollm2):
    with pytest.raises(TypeError, match="no_such_argument"):
        dola.load("smollm2", no_such_argument=1)


def test_an_encoder_decoder_folder(tmp_path, smollm2):
    config = T5Config(vocab_size=401, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8)
    T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="does not hold a causal language model"):
        dola.load(tmp_path)


def test_damaged_weights(tmp_path, smollm2):
    tiny("llama").save_pretrained(tmp_path)
    smollm2.tokenizer.save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelFileError, match="cannot be loaded as a model"):
        dola.load(tmp_path)


def test_an_unreadable_gguf(tmp_path):
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ModelFileError, match=r"noise\.gguf cannot be read as a GGUF file"):
        dola.load(path)


def test_without_the_gguf_package(monkeypatch, tmp_path):
    monkeypatch.setattr("dola.loading.names.find_spec", lambda name: None)
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF")
    words = rf"reading it requires gguf and accelerate, not installed here(.|\n)*{re.escape(install_line('cli'))}"
    with pytest.raises(MissingExtraError, match=words):
        dola.load(path)


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


@pytest.mark.parametrize(
    ("raised", "message", "hint"),
    [
        (GatedRepoError("403", **NO_SUCH), "'owner/name' is gated", "hf auth login"),
        (RepositoryNotFoundError("404", **NO_SUCH), "The hub has no model 'owner/name', or it is private", "spelling"),
        (RevisionNotFoundError("404", **NO_SUCH), "'owner/name' does not have that revision", "tree/main"),
    ],
)
def test_what_the_hub_refuses(monkeypatch, raised, message, hint):
    """The hub's answer is simulated; what transformers makes of it is not."""

    def refuse(*args, **kwargs):
        raise raised

    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", refuse)
    with pytest.raises(ModelFileError, match=message) as caught:
        dola.load("owner/name")
    assert hint in caught.value.hint


def test_code_of_a_model_is_neither_run_nor_asked_about(folder, monkeypatch):
    """If nothing is set, transformers would ask on the terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    edit_config(folder, model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnLM"})
    for settings in ({}, {"trust_remote_code": None}, {"trust_remote_code": False}):
        with pytest.raises(ModelFileError, match="contains its own Python code, which runs only if you allow it") as caught:
            dola.load(folder, **settings)
        assert "pass trust_remote_code=True (on the command line: --trust-remote-code)" in caught.value.hint
    with pytest.raises(ModelFileError, match=r"does not appear to have a file named own\.py"):
        dola.load(folder, trust_remote_code=True)


def test_an_architecture_that_transformers_does_not_know(folder):
    edit_config(folder, model_type="llama99")
    with pytest.raises(ModelError, match=r"does not know the architecture(.|\n)*llama99") as caught:
        dola.load(folder)
    assert caught.value.hint == pip_install("--upgrade", "transformers")


def test_a_config_that_is_not_json(folder):
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelFileError, match="is not a valid JSON file"):
        dola.load(folder)


def test_a_config_without_architecture(folder):
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelFileError, match="does not name an architecture"):
        dola.load(folder)


def test_weights_of_another_model(folder):
    edit_config(folder, hidden_size=64)
    with pytest.raises(ModelFileError, match=r"57 of the 57 weights of LlamaForCausalLM have other shapes than config\.json"):
        dola.load(folder)


def test_a_folder_without_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"cannot be loaded as a model: (.|\n)*no file named model\.safetensors"):
        dola.load(folder)


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"The tokenizer of .* cannot be loaded"):
        dola.load(folder)


def test_a_file_that_is_not_a_model(folder):
    with pytest.raises(ModelFileError, match=r"model\.safetensors' is a file, but not a \.gguf file") as caught:
        dola.load(folder / "model.safetensors")
    assert "the folder that holds it" in caught.value.hint


@pytest.mark.parametrize("dtype", ["float33", "int8", "nn", "fp16"])
def test_a_dtype_that_does_not_exist(dtype):
    message = f"dtype='{dtype}' is not a floating-point type of torch. Available: auto, float32, bfloat16, float16, float64."
    with pytest.raises(InputError, match=message):
        dola.load("smollm2", dtype=dtype)


@pytest.mark.parametrize("device", ["cuda:77", "gpu", "mps:3"])
def test_an_unavailable_device(device):
    with pytest.raises(InputError, match=f"No device '{device}' on this machine. Available: cpu"):
        dola.load("smollm2", device_map=device)


@pytest.mark.parametrize("device", ["cpu", "auto", torch.device("cpu"), {"": "cpu"}])
def test_devices_that_exist(folder, device):
    assert dola.load(folder, device_map=device).model.device == torch.device("cpu")


def test_devices_as_torch_names_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    for device in ("cuda", "cuda:1", "mps", "cpu", "meta", None):
        models._check_device(device)
    with pytest.raises(InputError, match="Available: cpu, cuda:0, cuda:1, mps"):
        models._check_device("cuda:2")


def test_a_device_without_accelerate(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="device_map='cpu' needs the package accelerate") as caught:
        dola.load("owner/name", device_map="cpu")
    assert caught.value.hint == install_line("cli")


def write_gguf(path, architecture):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(64)
    writer.add_tensor("token_embd.weight", np.zeros((32, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_without_a_tokenizer(tmp_path):
    with pytest.raises(ModelFileError, match=r"bare\.gguf does not hold a tokenizer that transformers can read"):
        dola.load(write_gguf(tmp_path / "bare.gguf", "llama"))


def test_a_gguf_file_of_an_unknown_architecture(tmp_path):
    with pytest.raises(ModelError, match=r"does not read .*odd\.gguf: GGUF model with architecture nonsense"):
        dola.load(write_gguf(tmp_path / "odd.gguf", "nonsense"))


def test_a_package_that_a_model_needs(monkeypatch, folder):
    def fail(*args, **kwargs):
        raise ImportError("Using bitsandbytes needs `pip install bitsandbytes`\nmore")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(MissingExtraError, match="needs a package that is not installed: Using bitsandbytes"):
        dola.load(folder)
