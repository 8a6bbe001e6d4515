"""Models that lack weights of their file are refused; complete models are not."""

import json
import logging
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
import transformers
from families import FAMILIES, tiny
from packaging.version import Version
from transformers import AutoModelForCausalLM
from words import word_tokenizer

import dola
from dola.doctor.checkup import advice, check_up
from dola.errors import ModelError, ModelFileError
from dola.loading.gguf_header import read_header
from dola.loading.load_errors import in_our_words
from dola.loading.notes import passed_on
from dola.loading.weight_lists import listed

IDS = torch.tensor([[5, 6, 7]])
ONE = torch.ones(1)
BIASES = {f"model.layers.{i}.self_attn.q_proj.bias": torch.ones(32) for i in range(6)}


def logits(model):
    with torch.no_grad():
        return model(IDS).logits


def fault(folder, **settings):
    """Why `dola.load` refuses a folder: the message and the hint."""
    with pytest.raises(ModelFileError) as caught:
        dola.load(folder, progress=lambda line: None, **settings)
    return caught.value.message, caught.value.hint


def notes(folder, **settings):
    """The messages for a folder that is loaded with the file's weights."""
    said = []
    model = dola.load(folder, progress=said.append, **settings).model
    assert torch.equal(logits(model), logits(tiny("llama")))
    return said


def scaled(end):
    """An edit that quantizes a weight, with a scale beside it."""

    def edit(weights):
        name = "model.layers.0.mlp.up_proj.weight"
        return {**weights, name: (weights[name] * 50).to(torch.int8), name.removesuffix("weight") + end: ONE}

    return edit


FAULTS = [
    # an edit of the weights, changes of config.json, words of the message, words of the hint
    (checkpoints.without("lm_head"), {}, "lacks 1 of the 57 weights of LlamaForCausalLM, and random numbers would take their "
     "place: lm_head.weight. The head was not saved", "save the whole model again with AutoModelForCausalLM"),
    (checkpoints.renamed("base_model.model."), {}, "lacks 57 of the 57", "removeprefix('base_model.model.')"),
    (checkpoints.renamed("module."), {}, "names that begin with 'module.'", "removeprefix('module.')"),
    (checkpoints.renamed("_orig_mod."), {}, "names that begin with '_orig_mod.'", "removeprefix('_orig_mod.')"),
    (checkpoints.renamed("policy.language_model."), {}, "begin with 'policy.language_model.'", "removeprefix("),
    (lambda w: {**checkpoints.without("lm_head")(w), "score.weight": torch.ones(1, 32)},
     {"architectures": ["LlamaForSequenceClassification"]},
     "a reward model or a classifier (LlamaForSequenceClassification, score.weight)", "that it was trained from"),
    (lambda w: {**checkpoints.without("lm_head")(w), "v_head.summary.weight": ONE}, {}, "a reward model", "trained from"),
    (checkpoints.without("lm_head"), {"architectures": ["LlamaModel"]}, "only the body was saved", "tie_word_embeddings"),
    (lambda w: {k.removeprefix("model."): v for k, v in checkpoints.without("lm_head")(w).items()}, {},
     "place: lm_head.weight. The head", "save"),
    (checkpoints.without("model.norm"), {}, "lacks 1 of the 57 weights of LlamaForCausalLM", "merge the parts"),
    (checkpoints.without("model.layers.2.", "model.layers.3."), {}, "whole layers: model.layers.2, model.layers.3.", "sharded"),
    ({}.__or__, {"num_hidden_layers": 8}, "whole layers: model.layers.6, model.layers.7.", "correct num_hidden_layers"),
    ({}.__or__, {"num_hidden_layers": 4}, "would end after 4 layers, and the file has 2 more: model.layers.4, model.layers.5.",
     "set num_hidden_layers to 6 in config.json"),
    ({}.__or__, {"vocab_size": 500}, "model.embed_tokens.weight (401 x 32 in the file, 500 x 32 in the model)", "save both"),
    ({}.__or__, {"vocab_size": None}, "(401 x 32 in the file, 32000 x 32 in the model)", "fetch both"),
    ({}.__or__, {"num_key_value_heads": 4}, "12 of the 57 weights of LlamaForCausalLM have other shapes", "fetch both again"),
    ({}.__or__, {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
     "model.layers.*.self_attn.q_norm.weight (6)", "with its config.json"),
    ({}.__or__, {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}, "lacks 76 of the 77", "with its config.json"),
    (lambda w: {k.replace("q_proj.", "q_proj.base_layer."): v for k, v in w.items()} | {"q_proj.lora_A.weight": ONE}, {},
     "with an adapter that was not merged", "merge_and_unload()"),
    (lambda w: {k.replace("up_proj.weight", "up_proj.qweight"): v for k, v in w.items()}, {},
     "quantized, and config.json does not say how", "quantization_config"),
    (scaled("weight_scale"), {}, "read as plain numbers, without these scales: model.layers.0.mlp.up_proj.weight_scale.",
     "quantization_config"),
    (scaled("scale"), {}, "without these scales: model.layers.0.mlp.up_proj.scale.", "quantization_config"),
    (lambda w: {**w, "lm_head.weight": (w["lm_head.weight"] * 50).to(torch.int8)}, {},
     "stored as integers and would be read as plain numbers: lm_head.weight.", "quantization_config"),
    (lambda w: {k: (v * 50).to(torch.uint8) if "up_proj" in k else v for k, v in w.items()}, {},
     "plain numbers: model.layers.*.mlp.up_proj.weight (6).", "quantization_config"),
    (scaled("SCB"), {}, "without these scales: model.layers.0.mlp.up_proj.SCB.", "quantization_config"),
]  # fmt: skip


@pytest.mark.parametrize(("edit", "config", "message", "hint"), FAULTS)
def test_weights_that_are_not_the_files_are_refused(tmp_path, edit, config, message, hint):
    said = fault(checkpoints.save(tmp_path, edit, **config))
    assert message in said[0]
    assert hint in said[1]


def test_integers_in_the_files_of_a_sharded_model(tmp_path):
    folder = checkpoints.save(tmp_path)
    weights = checkpoints.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    head = {"lm_head.weight": (weights.pop("lm_head.weight") * 50).to(torch.int8)}
    for name, part in {"a": weights, "b": head, "unused": {"lm_head.weight": torch.ones(401, 32)}}.items():
        checkpoints.save_file(part, folder / f"{name}.safetensors", metadata={"format": "pt"})
    places = {**dict.fromkeys(weights, "a.safetensors"), "lm_head.weight": "b.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert "stored as integers and would be read as plain numbers: lm_head.weight." in fault(folder)[0]


def test_small_floats_without_scales_are_named(tmp_path):
    """Some models are saved like that on purpose."""
    folder = checkpoints.save(tmp_path, lambda w: {**w, "lm_head.weight": w["lm_head.weight"].to(torch.float8_e4m3fn)})
    said = []
    dola.load(folder, progress=said.append)
    (line,) = said
    assert "stores these weights as 8-bit floats without scales, and they were read unscaled: lm_head.weight." in line


def test_outputs_without_names_in_the_config(tmp_path):
    """With such a config transformers' own `generate` raises an AttributeError."""
    model = dola.load(checkpoints.save(tmp_path, return_dict=False)).model
    assert torch.equal(logits(model), logits(tiny("llama")))
    settings = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(IDS, **settings), tiny("llama").generate(IDS, **settings))


def test_the_command_of_the_hint_removes_the_prefix(tmp_path):
    folder = checkpoints.save(tmp_path, checkpoints.renamed("module."))
    command = fault(folder)[1].partition(": ")[2]
    assert command.startswith('python -c "')
    subprocess.run([sys.executable, "-c", command.removeprefix('python -c "').removesuffix('"')], check=True)
    assert notes(folder) == []


def test_a_shard_that_is_missing(tmp_path):
    tiny("llama").save_pretrained(tmp_path, max_shard_size="60KB")
    word_tokenizer().save_pretrained(tmp_path)
    gone = tmp_path / "model-00002-of-00006.safetensors"
    gone.unlink()
    assert gone.name in fault(tmp_path)[0]
    index = tmp_path / "model.safetensors.index.json"
    kept = {name: file for name, file in json.loads(index.read_text())["weight_map"].items() if file != gone.name}
    checkpoints.edit_json(index, {"weight_map": kept})
    assert "lacks 12 of the 57 weights" in fault(tmp_path)[0]
    for text in ("{}", "{", "[]"):
        index.write_text(text)
        assert fault(tmp_path)[1]


def test_sizes_are_not_ignored_on_request_either(tmp_path):
    """Otherwise the caller would get random weights and no warning that they need training."""
    folder = checkpoints.save(tmp_path, vocab_size=500)
    assert "have other shapes" in fault(folder, ignore_mismatched_sizes=True)[0]


def test_a_model_is_cut_where_the_caller_asks_for_it(tmp_path):
    folder = checkpoints.save(tmp_path)
    said = []
    model = dola.load(folder, num_hidden_layers=4, progress=said.append).model
    assert model.config.num_hidden_layers == 4
    assert "18 weights that LlamaForCausalLM cannot use: model.layers.*.input_layernorm.weight (2)" in said[0]
    assert fault(checkpoints.save(tmp_path, num_hidden_layers=0))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (
            {"value_head.weight": ONE},
            "holds 1 weight that LlamaForCausalLM cannot use: value_head.weight. It was left out; ",
        ),
        ({f"mtp.layers.{i}.w": ONE for i in range(2)}, "holds 2 weights"),
        ({f"model.layers.6.{name}": ONE for name in ("eh_proj.weight", "input_layernorm.weight")}, "model.layers.6.eh_proj"),
        (BIASES, "some belong to parts that the model has, so its answers can differ"),
        ({"model.layers.0.self_attn.k_scale": ONE}, "k_scale"),
    ],
)
def test_unused_weights_are_named_and_not_refused(tmp_path, more, words):
    (said,) = notes(checkpoints.save(tmp_path, lambda weights: {**weights, **more}))
    assert words in said


@pytest.mark.parametrize(
    "edit",
    [
        dict,
        lambda weights: {**weights, "model.layers.0.self_attn.rotary_emb.inv_freq": ONE},  # declared harmless
        lambda weights: {k.removeprefix("model."): v for k, v in weights.items()},  # as the body by itself is saved
    ],
)
def test_a_complete_model_loads_silently(tmp_path, edit):
    assert notes(checkpoints.save(tmp_path, edit)) == []


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_loads_completely(tmp_path, name):
    tiny(name).save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    reports = []
    model = dola.load(tmp_path, on_weights=reports.append).model
    assert torch.equal(logits(model), logits(tiny(name)))
    assert [(report.fault, report.notes, report.lists.missing) for report in reports] == [(None, (), ())]


def test_tied_weights(tmp_path):
    """A tied head is not in the file. If the config says tied but the file has a head, the file counts."""
    tied = tiny("llama", tie_word_embeddings=True)
    tied.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    assert torch.equal(logits(dola.load(tmp_path).model), logits(tied))
    checkpoints.edit_json(tmp_path / "config.json", {"tie_word_embeddings": False})
    assert "set tie_word_embeddings to true" in fault(tmp_path)[1]
    (said,) = notes(checkpoints.save(tmp_path, tie_word_embeddings=True))
    assert said.startswith("transformers warns: The tied weights mapping and config")


def test_notes_go_to_stderr_by_default(tmp_path, capsys):
    dola.load(checkpoints.save(tmp_path, lambda weights: {**weights, "value_head.weight": ONE}))
    captured = capsys.readouterr()
    assert "value_head.weight. It was left out" in captured.err
    assert captured.out == ""


def test_the_caller_may_judge_the_weights(tmp_path):
    reports = []
    model, tokenizer = dola.load(checkpoints.save(tmp_path, checkpoints.without("lm_head")), on_weights=reports.append)
    (report,) = reports
    assert report.lists.missing == ("lm_head.weight",)
    with pytest.raises(ModelFileError, match="lacks 1 of the 57"):
        report.refuse()
    checkup = check_up(model, tokenizer, weights=reports)
    assert (checkup.checks[0].name, checkup.checks[0].status, checkup.healthy) == ("weights", "failed", False)
    assert "lm_head.weight. The head was not saved" in checkup.checks[0].text
    assert {check.status for check in checkup.checks[1:]} == {"ok"}  # they are of a whole model, if of another one
    assert "Fix that first" in advice(checkup)[0]


def test_names_in_messages():
    layers = [f"a.{i}.w" for i in range(3)]
    assert listed(["x", *layers, "b.0.w"]) == "x, a.*.w (3), b.0.w"
    assert listed([*layers, *"uvwxyz"]) == "a.*.w (3), u, v, w, and 3 more"


# Adapters


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A base, an adapter for it as PEFT saves it, and the logits of the two together."""
    peft = pytest.importorskip("peft")
    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    checkpoints.save(base)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's, of names that transformers replaces
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings).eval()
    model.save_pretrained(adapter)
    return base, adapter, logits(model)


def copied(adapter, folder, **config):
    for file in adapter.glob("adapter_*"):
        (folder / file.name).write_bytes(file.read_bytes())
    checkpoints.edit_json(folder / "adapter_config.json", config)
    return folder


def test_an_adapter_is_loaded_onto_its_base(adapted, tmp_path):
    base, adapter, expected = adapted
    reports = []
    model, tokenizer = dola.load(adapter, on_weights=reports.append)
    assert torch.equal(logits(model), expected)
    assert not model.training
    assert tokenizer.get_vocab() == dola.load(base).tokenizer.get_vocab()
    assert [report.lists.kind for report in reports] == ["LlamaForCausalLM", "adapter"]
    both = copied(adapter, checkpoints.save(tmp_path))
    assert torch.equal(logits(dola.load(both).model), expected)
    rounded = AutoModelForCausalLM.from_pretrained(adapter, dtype=torch.bfloat16)
    assert torch.equal(logits(dola.load(adapter, dtype=torch.bfloat16).model), logits(rounded))


def test_the_base_of_an_adapter_is_checked(adapted, tmp_path):
    """from_pretrained on the adapter's folder does not say what the base lacks."""
    adapter = adapted[1]
    base, other, both = (tmp_path / name for name in ("base", "other", "both"))
    checkpoints.save(base, checkpoints.without("lm_head"))
    other.mkdir()
    assert f"{str(base)!r} lacks 1 of the 57" in fault(copied(adapter, other, base_model_name_or_path=str(base)))[0]
    checkpoints.save(both, checkpoints.without("lm_head"))
    assert f"{str(both)!r} lacks 1 of the 57" in fault(copied(adapter, both))[0]


def test_the_weights_of_an_adapter_are_checked(adapted, tmp_path):
    adapter = copied(adapted[1], tmp_path)
    file = adapter / "adapter_model.safetensors"
    weights = checkpoints.load_file(file)
    checkpoints.save_file({name: value for name, value in weights.items() if ".0." not in name}, file)
    assert "lacks 4 of the adapter's weights" in fault(adapter)[0]
    checkpoints.save_file({name.replace("layers.0", "layers.9"): value for name, value in weights.items()}, file)
    assert "lacks 4 of the adapter's weights" in fault(adapter)[0]
    checkpoints.save_file({**weights, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight": ONE}, file)
    assert "more layers" in fault(adapter)[0] or "has no place" in fault(adapter)[0]
    checkpoints.save_file(weights, file)
    checkpoints.edit_json(adapter / "adapter_config.json", {"r": 8})
    assert "24 of the adapter's weights have other shapes than adapter_config.json says" in fault(adapter)[0]
    file.unlink()
    assert "adapter_model.safetensors" in fault(adapter)[0]


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ("/no/such/model", r"is for the model '/no/such/model'\. The folder '/no/such/model' does not exist"),
        ("nobody/nothing", r"is for the model 'nobody/nothing'\. 'nobody/nothing' is not in the hub's cache"),
        (None, "does not name the model that the adapter is for"),
    ],
)
def test_an_adapter_whose_base_is_not_here(adapted, tmp_path, base, message):
    with pytest.raises(ModelFileError, match=message):
        dola.load(copied(adapted[1], tmp_path, base_model_name_or_path=base))


def test_an_adapter_of_an_adapter(adapted, tmp_path):
    for base in (adapted[1], tmp_path):
        message, hint = fault(copied(adapted[1], tmp_path, base_model_name_or_path=str(base)))
        assert f"is for the model {str(base)!r}. That is itself an adapter, not a whole model" in message
        assert "merge the adapters" in hint


def saved_adapter(base, folder, settings):
    """An adapter whose weights are random, as PEFT saves it; and the logits that PEFT computes with it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings(peft)).eval()
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
    return logits(model)


def test_a_dora_adapter_is_refused_with_a_command_that_merges_it(adapted, tmp_path):
    folder = tmp_path / "dora"
    expected = saved_adapter(
        adapted[0], folder, lambda peft: peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", use_dora=True)
    )
    message, hint = fault(folder)
    assert "lora_magnitude_vector" in message
    assert "It is a DoRA adapter" in message
    command = hint.partition('python -c "')[2].partition('", and copy the tokenizer')[0]
    subprocess.run([sys.executable, "-c", command], check=True)
    merged = tmp_path / "dora-merged"
    for file in Path(adapted[0]).glob("tokenizer*"):
        shutil.copy(file, merged)
    assert torch.allclose(logits(dola.load(merged).model), expected, atol=1e-4)


def test_an_adapter_of_vectors_before_the_prompt(adapted, tmp_path):
    saved_adapter(adapted[0], tmp_path, lambda peft: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    message, hint = fault(tmp_path)
    assert "is an adapter that puts learned vectors before the prompt" in message
    assert "LoRA" in hint


def test_an_adapter_that_lost_a_module_is_not_taken_for_a_model(adapted, tmp_path):
    saved_adapter(
        adapted[0],
        tmp_path,
        lambda peft: peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"),
    )
    file = tmp_path / "adapter_model.safetensors"
    checkpoints.save_file({k: v for k, v in checkpoints.load_file(file).items() if "lm_head" not in k}, file)
    message, hint = fault(tmp_path)
    assert "The adapter is incomplete" in message
    assert "tie_word_embeddings" not in hint


def test_adapter_settings_that_peft_ignores_are_reported(adapted, tmp_path):
    said = []
    dola.load(copied(adapted[1], tmp_path, of_a_later_version=True), progress=said.append)
    (line,) = said
    assert line.startswith("PEFT warns: Unexpected keyword arguments ['of_a_later_version'] for class LoraConfig")


def test_an_adapter_without_peft(adapted, monkeypatch):
    monkeypatch.setattr("dola.loading.adapter_folder.find_spec", lambda name: None)
    with pytest.raises(dola.errors.MissingExtraError, match="requires peft, which is not installed"):
        dola.load(adapted[1])


def test_an_adapter_config_that_is_no_json(adapted, tmp_path):
    adapter = copied(adapted[1], tmp_path)
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelFileError, match=r"adapter_config\.json of .* cannot be read: it holds a list, not an object"):
        dola.load(adapter)


# GGUF


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


def test_a_whole_gguf(tmp_path, llama):
    path = checkpoints.write_gguf(tmp_path / "whole.gguf", llama)
    assert notes(path) == []
    header = read_header(path)
    assert (header.parts, header.blocks, len(header.tensors)) == (1, 6, 57)
    assert header.metadata["general.architecture"] == "llama"


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"lost": ("blk.4.", "blk.5.", "output."), "metadata": {"split.no": 0, "split.count": 2}},
         "part 1 of a model that was split into 2 files", "llama-gguf-split --merge"),
        ({"lost": ("blk.4.", "blk.5.")}, "whole layers: model.layers.4, model.layers.5", "shard"),
        ({"lost": ("output_norm",)}, "lacks 1 of the 57 weights of LlamaForCausalLM", "merge the parts"),
        ({"blocks": 8}, "whole layers: model.layers.6, model.layers.7", "num_hidden_layers"),
        ({"blocks": 4}, "has the weights of 6 layers, but its metadata says 4", "convert the model again"),
        ({"metadata": {"general.type": "adapter"}}, "its header gives the type 'adapter'", "the model itself"),
    ],
)  # fmt: skip
def test_a_gguf_that_is_not_whole(tmp_path, llama, settings, message, hint):
    said = fault(checkpoints.write_gguf(tmp_path / "model-00001-of-00002.gguf", llama, **settings))
    assert message in said[0]
    assert hint in said[1]


def test_the_hint_names_the_first_part_of_a_gguf(tmp_path, llama):
    metadata = {"split.no": 1, "split.count": 2}
    path = checkpoints.write_gguf(tmp_path / "model-00002-of-00002.gguf", llama, metadata=metadata)
    assert f"--merge {tmp_path}/model-00001-of-00002.gguf whole.gguf" in fault(path)[1]
    path = checkpoints.write_gguf(tmp_path / "second.gguf", llama, metadata=metadata)
    assert f"--merge {tmp_path}/second.gguf" in fault(path)[1]


def test_tensors_of_a_gguf_that_transformers_does_not_read(tmp_path, llama):
    path = checkpoints.write_gguf(tmp_path / "m.gguf", llama, more={"rope_freqs.weight": np.ones(4, np.float32)})
    (said,) = notes(path)
    assert "does not read rope_freqs.weight" in said


@pytest.mark.parametrize("length", [0, 3, 4, 20, 200, 3000])
def test_a_header_that_is_cut_off(tmp_path, llama, length):
    path = checkpoints.write_gguf(tmp_path / "m.gguf", llama)
    path.write_bytes(path.read_bytes()[:length])
    assert read_header(path) is None
    path.write_bytes(b"GGUF" + b"\xff" * length)
    assert read_header(path) is None


def test_layers_that_predict_further_tokens_are_not_counted(tmp_path, llama):
    more = {"blk.6.nextn.eh_proj.weight": np.ones(4, np.float32), "blk.6.attn_norm.weight": np.ones(4, np.float32)}
    assert read_header(checkpoints.write_gguf(tmp_path / "m.gguf", llama, more=more)).blocks == 6


# What else a folder may hold


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("num_hidden_layers", "6", "Field 'num_hidden_layers' expected int, got str"),
        ("rms_norm_eps", "1e-5", "rms_norm_eps"),
        ("dtype", "float33", "float33"),
        ("hidden_act", "nosuch", "nosuch"),
        ("rope_parameters", {"rope_type": "nosuch"}, "nosuch"),
        ("rope_scaling", {"type": "linear"}, "factor"),
        ("quantization_config", {}, "quant_method"),
        ("quantization_config", "fp8", "to_dict"),
        ("tie_word_embeddings", "yes", "tie_word_embeddings"),
        ("pad_token_id", 9999, "adding"),
        ("num_attention_heads", 5, "number of attention heads"),
        ("attn_implementation", "nosuch", "nosuch"),
    ],
)
def test_values_that_transformers_does_not_expect(tmp_path, field, value, words):
    folder = checkpoints.save(tmp_path, **{field: value})
    if Version(transformers.__version__) < Version("5.20"):  # older ones take some of these as they are, or fail elsewhere
        pytest.skip("this transformers does not look at the types of config.json")
    message = fault(folder)[0]
    assert words in message
    assert "tokenizer" not in message


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json", "tokenizer.json"])
def test_files_that_are_not_json(tmp_path, name, text):
    folder = checkpoints.save(tmp_path)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises((ModelFileError, ModelError)):
        dola.load(folder)


def test_an_unknown_quantization_warning_is_passed_on(tmp_path):
    (said,) = notes(checkpoints.save(tmp_path, quantization_config={"quant_method": "nosuch"}))
    assert said.startswith("transformers warns: Unknown quantization type, got nosuch")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_pointers_of_git_lfs(tmp_path, name):
    folder = checkpoints.save(tmp_path)
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n")
    message, hint = fault(folder)
    assert message.startswith(f"{folder / name} is a Git LFS pointer, not the file itself")
    assert hint == f"git -C {folder} lfs pull"


def test_errors_of_the_caller_are_raised_unchanged(tmp_path):
    with pytest.raises(TypeError, match="no_such_argument"):
        dola.load(checkpoints.save(tmp_path), no_such_argument=1)


def test_running_out_of_memory_is_not_the_files_fault():
    with pytest.raises(RuntimeError, match="out of memory"), in_our_words("model", "m", None, ours=True):
        raise RuntimeError("CUDA out of memory")


def test_the_list_of_transformers_is_asked_for_otherwise(tmp_path):
    with pytest.raises(dola.errors.InputError, match="output_loading_info") as caught:
        dola.load(tmp_path, output_loading_info=True)
    assert "on_weights=" in caught.value.hint


def test_loads_at_once_leave_the_log_as_it_was():
    root = logging.getLogger("transformers")
    before = root.level, list(root.handlers), root.propagate
    first, second = passed_on([].append), passed_on([].append)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert root.handlers != before[1]
    second.__exit__(None, None, None)
    assert (root.level, root.handlers, root.propagate) == before


def test_warnings_of_transformers_are_passed_on_once():
    log, said = logging.getLogger("transformers.somewhere"), []
    root = logging.getLogger("transformers")
    before = root.level, list(root.handlers), root.propagate
    root.setLevel(logging.ERROR)
    try:
        with passed_on(said.append):
            log.info("nothing")
            log.warning("two\nlines")
            log.warning("two\nlines")
            log.warning("X LOAD REPORT from: y")
            log.warning("z" * 1000)
            logging.getLogger("transformers.generation.configuration_utils").warning("flags")
        log.warning("after")
        assert (root.level, root.handlers) == (logging.ERROR, before[1])
    finally:
        root.setLevel(before[0])
    assert said == ["transformers warns: two lines", "transformers warns: " + "z" * 400 + " ..."]
    assert (root.level, root.handlers, root.propagate) == before
