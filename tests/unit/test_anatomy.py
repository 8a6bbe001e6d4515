"""Anatomy.of: what is found, and what is refused."""

import pytest
import torch
from families import FAMILIES, LLAMA_LIKE, tiny
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertLMHeadModel,
    LlamaConfig,
    RobertaConfig,
    RobertaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import dola
from dola.errors import ModelError
from dola.model.anatomy import Scale, SoftCap, unwrap

BERT_LIKE = {
    "vocab_size": 401,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "is_decoder": True,
}


def test_an_encoder_decoder_is_refused():
    model = T5ForConditionalGeneration(T5Config(vocab_size=401, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8))
    with pytest.raises(ModelError, match=r"T5ForConditionalGeneration is an encoder-decoder"):
        dola.attach(model)


def test_a_model_without_head_is_refused():
    with pytest.raises(ModelError, match=r"LlamaModel has no LM head(.|\n)*AutoModelForCausalLM"):
        dola.attach(AutoModel.from_config(LlamaConfig(**LLAMA_LIKE)))


def test_a_single_layer_is_refused():
    with pytest.raises(ModelError, match=r"LlamaForCausalLM has 1 layer; DoLa needs at least 2"):
        dola.attach(AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA_LIKE | {"num_hidden_layers": 1})))


@pytest.mark.parametrize("thing", [torch.nn.Linear(2, 2), "gpt2", None], ids=["module", "name", "None"])
def test_something_that_is_not_a_model_is_refused(thing):
    with pytest.raises(ModelError, match=r"is not a Hugging Face model(.|\n)*from_pretrained"):
        dola.attach(thing)


def test_a_model_without_blocks_is_refused(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model.model, "layers", torch.nn.Sequential(*model.model.layers))
    with pytest.raises(ModelError, match="has no list of blocks"):
        dola.attach(model)


def test_two_layers_are_enough(ids):
    model = tiny("llama", num_hidden_layers=2)
    with dola.attach(model, "high") as attached:
        assert attached.layers == (1,)
        assert model(ids).logits.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "config"), [(BertLMHeadModel, BertConfig), (RobertaForCausalLM, RobertaConfig)], ids=["bert", "roberta"]
)
def test_the_prediction_head_of_bert_like_decoders_is_one_head(kind, config, ids):
    torch.manual_seed(0)
    model = kind(config(**BERT_LIKE)).eval()
    anatomy = dola.Anatomy.of(model)
    assert anatomy.final_norm is None
    with torch.no_grad(), dola.attach(model, [1, 2]):
        assert model(ids).logits.shape == (1, 7, 401)


def test_opt_without_final_norm(ids):
    model = tiny("opt", _remove_final_layer_norm=True)
    anatomy = dola.Anatomy.of(model)
    assert anatomy.final_norm is None
    assert anatomy.projection is model.model.decoder.project_out
    with dola.attach(model):
        assert model(ids).logits.isfinite().all()


def test_logit_transforms_are_found():
    assert dola.Anatomy.of(tiny("gemma2")).logit_transform == SoftCap(15.0)
    assert dola.Anatomy.of(tiny("granite")).logit_transform == Scale(4.0)
    assert dola.Anatomy.of(tiny("cohere")).logit_transform == Scale(0.5)
    assert dola.Anatomy.of(tiny("mpt")).logit_transform is None  # its config has a logit_scale that nothing reads


def test_describe_names_all_parts():
    assert dola.Anatomy.of(tiny("gemma2")).describe() == (
        "blocks: 6 x Gemma2DecoderLayer, final norm: Gemma2RMSNorm, projection: none, head: Linear, "
        "logit transform: SoftCap(cap=15.0), tied embeddings: yes"
    )


def test_a_compiled_wrapper_is_unwrapped(llama):
    assert unwrap(torch.compile(llama, backend="eager")) is llama
    assert dola.Anatomy.of(torch.compile(llama, backend="eager")).lm is llama


def test_readout_takes_any_leading_shape(llama):
    anatomy, hidden = dola.Anatomy.of(llama), torch.randn(2, 3, 5, 32)
    whole = anatomy.readout(hidden)
    assert whole.shape == (2, 3, 5, 401)
    torch.testing.assert_close(anatomy.readout(hidden[1, 2]), whole[1, 2], atol=1e-4, rtol=1e-4)


def test_raw_head_skips_the_logit_transform():
    model = tiny("gemma2")
    anatomy, hidden = dola.Anatomy.of(model), torch.randn(3, 32)
    raw = anatomy.readout(hidden, final_norm=False, logit_transform=False)
    torch.testing.assert_close(raw, model.lm_head(hidden))
    torch.testing.assert_close(anatomy.readout(hidden, final_norm=False), FAMILIES["gemma2"].logits(raw))
