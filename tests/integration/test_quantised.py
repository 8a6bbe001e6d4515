"""Quantized weights, the LM head's too: DoLa's tokens are a recomputation's from `output_hidden_states` of the same model.

The libraries are optional and not in the extra `dev`: `make test-quantised` has them in an environment of its own.
"""

import importlib
import json
import os
import types

import pytest
import quanto_in_python
import torch
from command import tokenizer
from compressed import CHANNEL8, TOKEN, save_compressed
from families import tiny
from torch import nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, QuantoConfig, TorchAoConfig

import dola
from dola import native
from dola.contrast import contrast
from dola.errors import ModelError

pytestmark = pytest.mark.filterwarnings("default")  # of the libraries, when they are imported

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16, "vocab_size": 416}  # what 4-bit kernels can pack
PROMPT = torch.tensor([[5, 17, 200, 33, 8]])
LAYERS = (3, 5)
NEW = 8


def library(name):
    """A module; where it is absent the test is skipped, and fails under `make test-quantised`, which installs all of them."""
    if os.environ.get("DOLA_REQUIRE_QUANTISED") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


@pytest.fixture(autouse=True)
def uncompiled(request, monkeypatch):
    """`make test-quantised` uses quanto as it is; elsewhere nothing of it is compiled."""
    if "quanto" in request.node.name and os.environ.get("DOLA_REQUIRE_QUANTISED") != "1":
        library("optimum.quanto")
        quanto_in_python.use(monkeypatch)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("plain")
    tiny("llama", **SIZES).save_pretrained(path)
    return path


def load(folder, dtype, quantisation=None):
    asked = {} if quantisation is None else {"quantization_config": quantisation}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **asked).eval()
    model.generation_config.eos_token_id = None
    return model


def torchao(kind):
    def make(folder, dtype, head, tmp_path):
        quantization = library("torchao.quantization")
        configs = {
            "int8": quantization.Int8WeightOnlyConfig,
            "int8 and int8 activations": quantization.Int8DynamicActivationInt8WeightConfig,
            "int4": lambda: quantization.IntxWeightOnlyConfig(torch.int4, quantization.PerGroup(32)),
            "float8": quantization.Float8WeightOnlyConfig,
        }
        skipped = [] if head else ["lm_head"]
        return load(folder, dtype, TorchAoConfig(configs[kind](), modules_to_not_convert=skipped))

    return make


def bitsandbytes(**settings):
    def make(folder, dtype, head, tmp_path):
        library("bitsandbytes")
        return load(folder, dtype, BitsAndBytesConfig(**settings, llm_int8_skip_modules=[] if head else ["lm_head"]))

    return make


def quanto(weights):
    def make(folder, dtype, head, tmp_path):
        library("optimum.quanto")
        return load(folder, dtype, QuantoConfig(weights, modules_to_not_convert=[] if head else ["lm_head"]))

    return make


def hqq(bits):
    def make(folder, dtype, head, tmp_path):
        """Quantized by hand, because transformers 5.23 calls HQQ not available yet."""
        quantize = library("hqq.core.quantize")
        model, settings = load(folder, dtype), quantize.BaseQuantizeConfig(nbits=bits, group_size=32)
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and (head or name != "lm_head"):
                owner, _, attribute = name.rpartition(".")
                packed = quantize.HQQLinear(module, settings, compute_dtype=dtype, device="cpu")
                setattr(model.get_submodule(owner), attribute, packed)
        return model

    return make


def compressed_tensors(weights, activations=None, form="int-quantized"):
    def make(folder, dtype, head, tmp_path):
        """A checkpoint as llm-compressor writes it, and loaded again. The first forward decompresses it."""
        library("compressed_tensors")
        save_compressed(load(folder, dtype), tmp_path, weights, activations, form=form, head=head)
        assert json.loads((tmp_path / "config.json").read_text())["quantization_config"]["quant_method"] == "compressed-tensors"
        return load(tmp_path, dtype)

    return make


FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
GROUP4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32}
KINDS = {
    "torchao int8": torchao("int8"),
    "torchao int8 and int8 activations": torchao("int8 and int8 activations"),
    "torchao int4": torchao("int4"),
    "torchao float8": torchao("float8"),
    "bitsandbytes int8": bitsandbytes(load_in_8bit=True),
    "bitsandbytes nf4": bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="nf4"),
    "bitsandbytes fp4": bitsandbytes(load_in_4bit=True, bnb_4bit_quant_type="fp4"),
    "quanto int8": quanto("int8"),
    "quanto int4": quanto("int4"),
    "quanto float8": quanto("float8"),
    "hqq 8 bits": hqq(8),
    "hqq 4 bits": hqq(4),
    "compressed-tensors w8a16": compressed_tensors(CHANNEL8),
    "compressed-tensors w4a16": compressed_tensors(GROUP4, form="pack-quantized"),
    "compressed-tensors w8a8": compressed_tensors(CHANNEL8, TOKEN),
    "compressed-tensors fp8": compressed_tensors(FLOAT8, {"type": "float", "strategy": "token"}, form="float-quantized"),
}


@torch.no_grad()
def recomputed(model):
    """DoLa's tokens after PROMPT, without a hook or a cache: every layer through the model's own norm and head."""
    ids = PROMPT
    for _ in range(NEW):
        out = model(ids, output_hidden_states=True, logits_to_keep=1)
        premature = [model.lm_head(model.model.norm(out.hidden_states[layer][:, -1:])) for layer in LAYERS]
        ids = torch.cat([ids, contrast(out.logits, torch.stack(premature)).argmax(-1)], dim=1)
    return ids.tolist()


def decoded(model, *, lazy=True):
    config = dola.DoLaConfig(LAYERS, lazy=lazy)
    settings = {"max_new_tokens": NEW, "do_sample": False, "repetition_penalty": 1.0, "use_cache": False}
    return dola.generate(model, PROMPT, dola_layers=config, **settings).tolist()


@pytest.mark.parametrize("head", [False, True], ids=["head plain", "head quantized"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()  # under which bitsandbytes packs 4 bits otherwise, for the CPU
def test_tokens_are_those_of_a_recomputation(folder, tmp_path, kind, dtype, head):
    model = KINDS[kind](folder, dtype, head, tmp_path)
    before = model(PROMPT).logits.tolist()
    assert before != load(folder, dtype)(PROMPT).logits.tolist()
    assert decoded(model) == decoded(model, lazy=False) == recomputed(model)
    assert not (head and native.suits(model.lm_head))
    assert dola.Anatomy.of(model).vocabulary == SIZES["vocab_size"]
    with dola.attach(model, LAYERS):
        assert model(PROMPT).logits.tolist() != before
    assert model(PROMPT).logits.tolist() == before


@pytest.mark.parametrize("kind", ["torchao int8", "bitsandbytes nf4", "quanto int8", "hqq 4 bits", "compressed-tensors w8a8"])
def test_score_and_trace(folder, tmp_path, kind):
    model = KINDS[kind](folder, torch.float32, True, tmp_path)
    config = dola.DoLaConfig(LAYERS)
    text = "The capital of France is"
    last = dola.trace(model, tokenizer(), text, config).tokens[-1]
    ids = tokenizer()(text).input_ids
    assert last.position == len(ids) - 1
    scores = dola.score(model, None, [ids], [[[last.dola_choice], [7]]], {"dola": config}, progress=False)
    best, other = scores.values["dola"][0]
    assert best > other


@pytest.mark.parametrize("kind", ["torchao", "compressed-tensors"])
def test_a_head_that_rounds_all_rows_by_one_scale_is_refused(folder, tmp_path, kind):
    if kind == "torchao":
        quantization = library("torchao.quantization")
        settings = quantization.Int8DynamicActivationInt8WeightConfig(granularity=quantization.PerTensor())
        model = load(folder, torch.bfloat16, TorchAoConfig(settings, modules_to_not_convert=[]))
    else:
        make = compressed_tensors(CHANNEL8, {"type": "int", "strategy": "tensor"})
        model = make(folder, torch.bfloat16, True, tmp_path)
    with pytest.raises(ModelError, match="exclude the LM head from the quantization"):
        decoded(model)


def rounding(*, each_row):
    """A forward of a linear layer that rounds what it is given to 4 bits, as libraries put on plain layers."""

    def forward(self, rows):
        scale = (rows.abs().amax(-1, keepdim=True) if each_row else rows.abs().max()) / 7
        return nn.functional.linear((rows / scale).round() * scale, self.weight)

    return forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_forward_of_its_own_is_not_read_around(dtype):
    """The compiled kernel would read the weights, and leave out what the forward does."""
    model = tiny("llama", dtype=dtype, **SIZES)
    plain = decoded(model)
    model.lm_head.forward = types.MethodType(rounding(each_row=True), model.lm_head)
    assert not native.suits(model.lm_head)
    assert decoded(model) == decoded(model, lazy=False) == recomputed(model) != plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_head_that_rounds_rows_together_is_refused_with_a_reason(dtype):
    model = tiny("llama", dtype=dtype, **SIZES)
    model.lm_head.forward = types.MethodType(rounding(each_row=False), model.lm_head)
    with pytest.raises(ModelError, match=r"all rows by one scale(.|\n)*exclude the LM head"):
        decoded(model)
    with pytest.raises(ModelError, match="all rows by one scale"):
        dola.trace(model, tokenizer(), "Hi", dola.DoLaConfig(LAYERS))
    with pytest.raises(ModelError, match="all rows by one scale"):
        dola.score(model, None, [[5, 6]], [[[7]]], {"dola": dola.DoLaConfig(LAYERS)}, progress=False)
