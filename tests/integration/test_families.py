"""Every family that must work: parts found, contrast equal to a recomputation in float64 from `output_hidden_states`."""

import pytest
import torch
from families import FAMILIES, readout, tiny
from reference import dola_float64 as judge

import dola
from dola.anatomy import READOUT_TOLERANCE
from dola.contrast import plausible
from dola.layers import candidate_layers

CONFIGS = {
    "default": dola.DoLaConfig("high"),
    "low": dola.DoLaConfig("low"),
    "all": dola.DoLaConfig("all"),
    "static": dola.DoLaConfig([3]),
    "no norm": dola.DoLaConfig([1, 4], final_norm=False),
    "reference": dola.DoLaConfig.reference("high"),
    "relative_top 0": dola.DoLaConfig([2, 5], relative_top=0.0),
}


def recomputed(model, family, input_ids, config):
    """(scores, plausible) of every position, by the judge and the family's written-down parts."""
    with torch.no_grad():
        plain = model(input_ids, output_hidden_states=True)
        layers = candidate_layers(config.layers, model.config.num_hidden_layers, tied=model.config.tie_word_embeddings)
        premature = torch.stack(
            [
                readout(
                    model, family, plain.hidden_states[j], final_norm=config.final_norm, raw_head=config == CONFIGS["reference"]
                )
                for j in layers
            ]
        )
    mature = plain.logits.double()[0]
    return [
        judge.contrast(mature[t].tolist(), premature[:, 0, t].double().tolist(), config.relative_top, config.divergence)
        for t in range(mature.shape[0])
    ]


def hooks(model):
    """Every hook of every module."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_forward_hooks_with_kwargs", "_forward_pre_hooks_with_kwargs",
             "_forward_hooks_always_called")  # fmt: skip
    return [(name, kind, list(getattr(module, kind))) for name, module in model.named_modules() for kind in kinds]


def test_all_families_are_here():
    required = (
        "llama mistral mixtral qwen2 qwen3 gemma gemma2 gemma3_text gpt2 gpt_neox gptj opt bloom falcon phi phi3 "
        "olmo2 stablelm granite cohere mpt starcoder2 smollm3"
    )


def test_low_precision_goes_to_float32_at_the_logits(ids):
    model = tiny("gemma2", dtype=torch.bfloat16)
    with dola.attach(model, "high"):
        assert model(ids).logits.dtype == torch.float32
