"""Detection of weights that a checkpoint lacks, from the names of the tensors read. tests/serving has real engines."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dola.errors import ModelFileError
from dola.integrations.vllm import weights


class _Method:
    """A quantization method, which vLLM's linear layers have whether they are quantized or not."""


def _layer(**parameters: Any) -> Any:
    module = torch.nn.Module()
    for name, value in parameters.items():
        module.register_parameter(name, torch.nn.Parameter(value, requires_grad=False))
    module.quant_method = _Method()
    return module


def _model(*, tied: bool = False, **parameters: Any) -> Any:
    """A model of vLLM as far as its weights go: embeddings, one fused layer, a head."""
    model = torch.nn.Module()
    given = parameters or {"weight": torch.ones(3, 2)}
    model.embed, model.qkv_proj, model.lm_head = (
        _layer(weight=torch.ones(4, 2)),
        _layer(**given),
        _layer(weight=torch.ones(4, 2)),
    )
    if tied:
        model.lm_head.weight = model.embed.weight
    return model


def test_a_layer_that_no_tensor_was_read_for_is_refused():
    model = _model()
    loaded = ["embed.weight", "qkv_proj.weight"]
    with pytest.raises(ModelFileError, match=r"'m' lacks 1 of the 3 weights of Module.*: lm_head.weight\.") as caught:
        weights.check_weights(model, "m", loaded, loaded, quantised=False)
    assert "tie_word_embeddings" in caught.value.hint
    weights.check_weights(model, "m", [*loaded, "lm_head.weight"], [], quantised=False)
    weights.check_weights(_model(tied=True), "m", loaded, [], quantised=False)
    weights.check_weights(model, "m", None, [], quantised=False)  # a class that does not say what it loaded


def test_many_missing_weights_are_counted():
    names = [f"model.layers.{i}.experts.{e}.w1.weight" for i in range(9) for e in range(4) if (i, e) != (3, 2)]
    with pytest.raises(ModelFileError, match=r"lacks 3 of the 3 weights of Module.*qkv_proj.weight"):
        weights.check_weights(_model(), "m", [], [], quantised=False)
    assert weights.missing_experts(names) == ["model.layers.3.experts.2.w1.weight"]
    assert weights.missing_experts(name for name in names if "layers.3" not in name) == []


def test_experts_of_another_layer_tell_which_projections_there_are():
    whole = [f"layers.{i}.experts.{e}.{p}.weight" for i in range(2) for e in range(2) for p in ("up", "down")]
    assert weights.missing_experts(name for name in whole if "1.experts.0.up" not in name and "1.experts.1.up" not in name) == [
        "layers.1.experts.0.up.weight",
        "layers.1.experts.1.up.weight",
    ]
    assert weights.missing_experts(["layers.0.experts.gate_up_proj", "layers.0.mlp.up_proj.weight"]) == []


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (["h.1.attn.q_proj.weight", "h.1.attn.k_proj.weight", "h.1.attn.v_proj.weight"], []),
        (["h.1.attn.qkv_proj.weight"], []),
        (["h.1.attn.q_proj.weight", "h.1.attn.v_proj.weight"], ["h.1.attn.k_proj.weight"]),
        (["h.1.attn.v_proj.weight", "h.2.attn.q_proj.weight"], ["h.1.attn.q_proj.weight", "h.1.attn.k_proj.weight"]),
    ],
)
def test_fused_layers_need_all_of_their_tensors(read: list[str], expected: list[str]):
    packed = {"qkv_proj": ["q_proj", "k_proj", "v_proj"]}
    assert weights.missing_parts(["transformer.h.1.attn.qkv_proj.weight", "ln_f.weight"], read, packed) == expected
    assert weights.missing_parts(["transformer.h.1.attn.qkv_proj.bias"], read, packed) == []


def test_what_a_quantised_layer_may_lack():
    made = {"weight_packed": torch.ones(2), "weight_scale": torch.ones(2), "g_idx": torch.ones(2), "zero": torch.ones(0)}
    model = _model(**made)
    read = ["embed.weight", "lm_head.weight", "qkv_proj.weight_packed", "qkv_proj.weight_scale"]
    weights.check_weights(model, "m", read, [], quantised=True)
    with pytest.raises(ModelFileError, match=r"qkv_proj\.weight_scale"):
        weights.check_weights(model, "m", read[:-1], [], quantised=True)
    with pytest.raises(ModelFileError, match="g_idx"):
        weights.check_weights(model, "m", read[:-2], [], quantised=True)
    model.qkv_proj.quant_method.uses_meta_device = True  # quantized while it loads
    weights.check_weights(model, "m", read[:-2], [], quantised=True)


def test_what_vllm_raises_over_a_tensor_names_it():
    def weights_of_a_file() -> Any:
        yield "base_model.model.lm_head.weight", torch.ones(4, 2)

    reading = weights.Reading(weights_of_a_file())
    with pytest.raises(ModelFileError, match=r"at base_model.model.lm_head.weight, of shape \[4, 2\]: no") as caught:
        _fail(reading)
    assert "prefix" in caught.value.hint
    with pytest.raises(torch.OutOfMemoryError), reading.named("m"):
        raise torch.OutOfMemoryError
    assert weights.tracks_weights(SimpleNamespace(model_loader_extra_config={}))
    assert not weights.tracks_weights(SimpleNamespace(model_loader_extra_config={"enable_weights_track": False}))


def _fail(reading: Any) -> None:
    with reading.named("m"):
        next(iter(reading))
        raise ValueError("no module or parameter named 'base_model'. There are others.")
