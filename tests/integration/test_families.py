"""Every family that must work: parts found, contrast equal to a recomputation in float64 from `output_hidden_states`."""

import pytest
import torch
from families import FAMILIES, readout, tiny
from reference import dola_float64 as judge

import dola
from dola.contrast import plausible
from dola.methods.layers import candidate_layers
from dola.model.anatomy import READOUT_TOLERANCE

CONFIGS = {
    "default": dola.DoLaConfig("high"),
    "low": dola.DoLaConfig("low"),
    "all": dola.DoLaConfig("all"),
    "static": dola.DoLaConfig([3]),
    "no norm": dola.DoLaConfig([1, 4], final_norm=False),
    "reference": dola.DoLaConfig.reference("high"),
    "relative_top 0": dola.DoLaConfig([2, 5], relative_top=0.0),
}


TIE = 1e-6
"""Divergences closer than this, in nats, tie in float32: where a peaked mature layer agrees with all candidates."""


def recomputed(model, family, input_ids, config):
    """The scores of every position, by the judge and the family's written-down parts; one list for each candidate in a tie."""
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
    mature = plain.logits.double()[0].tolist()
    return [
        [judge.contrast(row, [candidate], config.relative_top) for candidate in furthest(row, candidates, config.divergence)]
        for row, candidates in zip(mature, premature[:, 0].double().transpose(0, 1).tolist(), strict=True)
    ]


def furthest(mature, premature, divergence):
    """The candidate that the judge selects, and those that tie with it."""
    values = [judge.DIVERGENCES[divergence](mature, candidate) for candidate in premature]
    assert values.index(max(values)) == judge.select(mature, premature, divergence)
    nearly = max(values) - (TIE if divergence == "jsd" else 0)
    return [candidate for candidate, value in zip(premature, values, strict=True) if value >= nearly]


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
    assert sorted(required.split()) == sorted(FAMILIES)


def test_readout_of_the_last_block_is_the_models_logits(family, ids):
    described, model = family
    anatomy = dola.Anatomy.of(model)
    seen = []
    handle = anatomy.blocks[-1].register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
    logits = model(ids).logits
    handle.remove()
    assert anatomy.num_layers == 6
    assert anatomy.readout_error(seen[0], logits) < READOUT_TOLERANCE[torch.float32] / 100
    assert anatomy.final_norm is model.get_submodule(described.final_norm)
    assert anatomy.tied == model.config.tie_word_embeddings


@pytest.mark.parametrize("name", CONFIGS)
def test_forward_returns_the_contrast(family, name, ids):
    described, model = family
    config = CONFIGS[name]
    expected = recomputed(model, described, ids, config)
    with dola.attach(model, config):
        scores = model(ids).logits[0]
    assert scores.dtype == torch.float32
    inside = plausible(model(ids).logits[0], config.relative_top)
    for position, tied in enumerate(expected):
        judged = torch.tensor(tied, dtype=torch.float64)
        keep = judged[0] > -torch.inf
        assert torch.equal(inside[position], keep)
        nearest = (judged[:, keep] - scores[position][keep]).abs().amax(dim=-1).argmin()
        torch.testing.assert_close(scores[position][keep].double(), judged[nearest][keep], atol=2e-3, rtol=1e-3)
        if not keep.all():
            assert scores[position][~keep].max() < scores[position][keep].min() - 500


def test_heads_are_peaked_enough_for_masks_to_matter(family, ids):
    """The tests below mean nothing on uniform random heads, where every token is plausible."""
    _, model = family
    plain = model(ids).logits[0]
    assert plausible(plain).sum(-1).float().mean() < 40
    assert plain.std() > 1


def test_attach_and_remove_leave_the_model_as_it_was(family, ids):
    _, model = family
    before = model(ids).logits
    attributes, registered = set(model.__dict__), hooks(model)  # transformers has hooks of its own
    with dola.attach(model, "high") as attached:
        assert model.dola is attached
        assert not torch.equal(model(ids).logits, before)
    assert torch.equal(model(ids).logits, before)
    assert set(model.__dict__) == attributes
    assert hooks(model) == registered


def test_a_row_does_not_depend_on_its_batch_or_padding(family):
    _, model = family
    short, long = torch.tensor([[7, 30, 9]]), torch.tensor([[5, 17, 200, 33, 8]])
    padded = torch.tensor([[0, 0, 7, 30, 9], [5, 17, 200, 33, 8]])
    mask = (padded > 0).long()
    settings = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1.2}
    with dola.attach(model, "high"):
        alone = [
            model.generate(row, attention_mask=torch.ones_like(row), **settings)[0, row.shape[1] :] for row in (short, long)
        ]
        together = model.generate(padded, attention_mask=mask, **settings)[:, 5:]
    assert together.tolist() == [row.tolist() for row in alone]


def test_low_precision_goes_to_float32_at_the_logits(ids):
    model = tiny("gemma2", dtype=torch.bfloat16)
    with dola.attach(model, "high"):
        assert model(ids).logits.dtype == torch.float32
