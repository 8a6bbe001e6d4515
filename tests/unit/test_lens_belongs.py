"""Whether a lens belongs to a model: quantized weights, weights that change, and what may be given as a lens."""

from __future__ import annotations

import warnings
from pathlib import Path

import checkpoints
import pytest
import torch
from command import tokenizer
from families import tiny

import dola
from dola.errors import ConfigError, LensError
from dola.lens import belongs
from dola.loading.gguf_header import read_header
from dola.methods.registry import METHODS
from dola.model.anatomy import Anatomy
from dola.model.stored import is_quantized

peft = pytest.importorskip("peft")
READ_BY_PEFT = "ignore:.is_gradient_checkpointing.:FutureWarning"

TEXTS = [f"The number {number} is written {number} times {number}." for number in range(20)]
LAYERS = (2, 4)


def fitted(model, folder, name="tiny.lens.safetensors"):
    lens = dola.fit_lens(model, tokenizer(), TEXTS, layers=LAYERS, tokens=300)
    lens.save(folder / name)
    return lens


def attached(model, lens):
    dola.attach(model, dola.DoLaConfig(LAYERS, lens=lens)).remove()


@pytest.fixture(scope="module")
def llama():
    return tiny()


@pytest.fixture(scope="module")
def lens(llama, tmp_path_factory):
    return fitted(llama, tmp_path_factory.mktemp("lens"))


@pytest.mark.parametrize(("matrices", "quantized"), [("F32", False), ("F16", False), ("Q8_0", True), ("Q4_1", True)])
def test_a_gguf_file_says_whether_it_is_quantized(llama, tmp_path, matrices, quantized):
    path = checkpoints.write_gguf(tmp_path / "tiny.gguf", llama, matrices=matrices)
    assert read_header(path).is_quantized == quantized


def test_what_was_dequantized_is_noted_when_it_is_loaded(llama, tmp_path):
    plain, packed = (checkpoints.write_gguf(tmp_path / f"{kind}.gguf", llama, matrices=kind) for kind in ("F32", "Q4_1"))
    assert not is_quantized(dola.load(plain).model)
    model = dola.load(packed).model
    assert model.dtype == torch.float32
    assert is_quantized(model)
    assert fitted(model, tmp_path).facts["quantized"]


def test_another_quantization_warns_in_both_directions(llama, lens, tmp_path):
    model = dola.load(checkpoints.write_gguf(tmp_path / "tiny.gguf", llama, matrices="Q4_1")).model
    with pytest.warns(UserWarning, match="quantized in another way"):
        attached(model, lens)
    with pytest.warns(UserWarning, match="quantized in another way"):
        attached(tiny(), fitted(model, tmp_path))


def test_the_same_quantization_is_silent(llama, tmp_path):
    path = checkpoints.write_gguf(tmp_path / "tiny.gguf", llama, matrices="Q4_1")
    made = fitted(dola.load(path).model, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        attached(dola.load(path).model, made)


@pytest.mark.parametrize("change", ["in place", "through .data"])
def test_weights_that_change_after_a_check_are_seen(lens, change):
    model = tiny()
    attached(model, lens)
    weight = model.model.layers[3].mlp.up_proj.weight
    (weight.data if change == "through .data" else weight).add_(0.1)
    with pytest.raises(LensError, match=r"other weights: block\.3"):
        attached(model, lens)


def lora(**settings):
    """A tiny model with an active adapter that is not merged."""
    torch.manual_seed(0)
    given = {"r": 4, "target_modules": ["q_proj"], "init_lora_weights": False, "task_type": "CAUSAL_LM", **settings}
    return peft.get_peft_model(tiny(), peft.LoraConfig(**given)).eval()


@pytest.mark.filterwarnings(READ_BY_PEFT)
def test_an_adapter_is_seen_whether_it_is_merged_or_not(lens):
    model = lora()
    with pytest.raises(LensError, match=r"other weights: block\.\d\.self_attn\.q_proj"):
        attached(model, lens)
    model.merge_adapter()
    with pytest.raises(LensError, match=r"other weights: block\.\d\.self_attn\.q_proj"):
        attached(model, lens)
    model.unmerge_adapter()
    with model.disable_adapter():
        attached(model, lens)
    with pytest.raises(LensError, match="other weights"):  # switched on again: no weight has changed since
        attached(model, lens)


@pytest.mark.filterwarnings(READ_BY_PEFT)
def test_an_adapter_that_is_switched_on_after_attach_is_seen_at_the_next_call(lens):
    model = lora()
    ids = torch.tensor([[5, 6, 7]])
    with model.disable_adapter():
        session = dola.attach(model, dola.DoLaConfig(LAYERS, lens=lens))
        model.generate(input_ids=ids, max_new_tokens=1, do_sample=False)
    with session, pytest.raises(LensError, match="other weights"):
        model.generate(input_ids=ids, max_new_tokens=1, do_sample=False)


@pytest.mark.filterwarnings(READ_BY_PEFT)
def test_a_lens_of_an_adapted_model_is_silent_there_and_refused_without_the_adapter(tmp_path):
    model = lora()
    made = fitted(model, tmp_path)
    assert made.facts["adapters"] == ["default"]
    attached(model, made)
    with model.disable_adapter(), pytest.raises(LensError, match="other weights"):
        attached(model, made)


@pytest.mark.filterwarnings(READ_BY_PEFT)
@pytest.mark.parametrize(
    "settings", [{"init_lora_weights": True}, {"use_dora": True, "init_lora_weights": True}], ids=["no change yet", "DoRA"]
)
def test_an_adapter_that_cannot_be_told_from_the_weights_warns(lens, settings):
    with pytest.warns(UserWarning, match="with no adapter, and .* now runs with the adapters default"):
        attached(lora(**settings), lens)


def test_weights_that_do_not_change_are_compared_once(lens, monkeypatch):
    model = tiny()
    attached(model, lens)
    monkeypatch.setattr(belongs, "statistics", lambda anatomy: pytest.fail("compared again"))
    attached(model, lens)


def test_every_method_takes_a_path_and_a_lens(lens):
    for config in METHODS.values():
        for given in (Path(lens.source), lens, dola.Lens.load(lens)):
            assert config(LAYERS, final_norm=True, lens=given).lens == lens.source


def test_a_lens_reads_as_its_file_does(llama, lens):
    maps = [belongs.maps_of(Anatomy.of(llama), dola.DoLaConfig(LAYERS, lens=given)) for given in (lens.source, lens)]
    assert maps[0] is maps[1]


def test_a_lens_without_a_file_is_refused(llama):
    unsaved = dola.fit_lens(llama, tokenizer(), TEXTS, layers=LAYERS, tokens=300)
    with pytest.raises(LensError, match="has no file yet") as caught:
        dola.DoLaConfig(LAYERS, lens=unsaved)
    assert "lens.save(" in caught.value.hint


def test_a_lens_whose_file_has_changed_is_refused(llama, tmp_path):
    made = fitted(llama, tmp_path)
    dola.fit_lens(llama, tokenizer(), TEXTS, layers=[4, 5], tokens=300).save(made.source)
    with pytest.raises(LensError, match="has changed since it was loaded"):
        dola.DoLaConfig(LAYERS, lens=made)


def test_files_that_are_not_lenses_are_refused():
    with pytest.raises(ConfigError, match="not text"):
        dola.DoLaConfig(LAYERS, lens=3)
