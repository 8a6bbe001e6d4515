"""A model of mlx-lm with a method on it: its scores, its errors, and that it is restored."""

from __future__ import annotations

import subprocess
import sys

import mlx.core as mx
import mlx.nn as nn
import pytest
from reference import dola_float64
from tiny_mlx import shortened, tiny

import dola.mlx
from dola.errors import AttachError, InputError, LayersError, LensError, ModelError, ReadoutError
from dola.mlx import formulas

FAMILIES = ["llama", "gemma2", "gemma3_text", "qwen2", "qwen3", "cohere", "granite", "minicpm", "phi3", "mixtral", "olmo2"]
TOKENS = [[3, 9, 27, 17, 51]]
LAYERS = (1, 2, 3)


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_equal_the_judges_on_shortened_models(name):
    """Earlier layers are read by another way: from the model with its first blocks alone."""
    model, tokens = tiny(name), mx.array(TOKENS)
    mature, premature = model(tokens)[0, -1].tolist(), [each[0, -1].tolist() for each in shortened(model, tokens, LAYERS)]
    with dola.mlx.attach(model, LAYERS):
        found = model(tokens)[0, -1].tolist()
    judge, log_p = dola_float64.contrast(mature, premature, relative_top=0.1), dola_float64.log_softmax(mature)
    wanted = [p - 1000 if score == -float("inf") else score for score, p in zip(judge, log_p, strict=True)]
    assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_without_strength_the_model_is_its_own():
    model, tokens = tiny("llama"), mx.array(TOKENS)
    plain = model(tokens)
    with dola.mlx.attach(model, dola.mlx.DoLaConfig(scores="distribution", strength=0)):
        assert mx.array_equal(model(tokens), plain)


def test_removing_restores_the_model():
    model, tokens = tiny("gemma2"), mx.array(TOKENS)
    kind, plain, parts = type(model), model(tokens), [type(each) for _, each in model.named_modules()]
    with dola.mlx.attach(model, "high"):
        assert not mx.allclose(model(tokens), plain)
        assert isinstance(model, kind)
    assert type(model) is kind
    assert "dola" not in vars(model)
    assert [type(each) for _, each in model.named_modules()] == parts
    assert mx.array_equal(model(tokens), plain)


@pytest.mark.parametrize("bits", [4, 8])
def test_quantized_heads(bits):
    model, tokens = tiny("llama"), mx.array(TOKENS)
    nn.quantize(model, group_size=32, bits=bits)
    mature, premature = model(tokens), shortened(model, tokens, LAYERS)
    with dola.mlx.attach(model, LAYERS):
        found = model(tokens)
    how = {"relative_top": 0.1, "divergence": "jsd", "strength": 1.0, "scores": "contrast"}
    assert mx.allclose(found, formulas.contrast(mature, mx.stack(premature), **how), rtol=1e-4, atol=1e-4)


def test_the_old_readout_skips_norm_and_soft_cap():
    model, tokens = tiny("gemma2"), mx.array(TOKENS)
    with dola.mlx.attach(model, dola.mlx.DoLaConfig.reference(LAYERS)) as attached:
        _, premature = attached.read(lambda: model(tokens), LAYERS)
        state = model.model.embed_tokens(tokens) * 32**0.5
        above = mx.triu(mx.full((5, 5), -float("inf")), 1)
        state = model.layers[0](state, mx.where(above < 0, 0, 1).astype(mx.bool_))
        assert mx.allclose(premature[0], model.model.embed_tokens.as_linear(state), rtol=1e-4, atol=1e-4)
        assert float(mx.abs(premature).max().item()) > 3  # the soft-cap's


def test_errors_are_those_of_torch():
    model = tiny("llama")
    with pytest.raises(LayersError, match=r"layer 9 in layers=\[9\] does not exist; allowed are 0 to 3"):
        dola.mlx.attach(model, [9])
    with pytest.raises(ModelError, match="is not a model of MLX"):
        dola.mlx.attach(object(), "high")
    with pytest.raises(LensError, match="does not exist"):
        dola.mlx.attach(model, dola.mlx.DoLaConfig(lens="none.safetensors"))
    with dola.mlx.attach(model, "high"), pytest.raises(AttachError, match="has DoLa attached already"):
        dola.mlx.attach(model, "low")
    model.train()
    with dola.mlx.attach(model, "high"), pytest.raises(InputError, match="training mode"):
        model(mx.array(TOKENS))


def test_a_wrong_readout_is_found_on_the_first_forward():
    class Other(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner
            self.extra_norm = nn.RMSNorm(64)

        @property
        def layers(self):
            return self.inner.layers

        def __call__(self, inputs, cache=None):
            inner = self.inner.model
            state = inner.embed_tokens(inputs)
            for block in inner.layers:
                state = block(state, "causal")
            return self.extra_norm(inner.embed_tokens.as_linear(inner.norm(2 * state + 1)))

    model = Other(tiny("llama"))
    model.eval()
    with dola.mlx.attach(model, "high"), pytest.raises(ReadoutError, match="does not reproduce its logits"):
        model(mx.array(TOKENS))


def test_importing_it_imports_neither_torch_nor_mlx():
    code = "import dola.mlx, sys; dola.mlx.DoLaConfig('low'); print({'torch', 'mlx.core', 'transformers'} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


def test_attaching_imports_no_torch():
    code = (
        "import sys; sys.modules['transformers'] = None; import dola.mlx.formulas, dola.mlx.parts, dola.mlx.lens;"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
