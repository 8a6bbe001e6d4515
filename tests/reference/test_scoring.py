"""The scoring judge against the judge of the method, in float64, and cases small enough to work out by hand."""

import math

import pytest
import torch
from command import tokenizer
from families import FAMILIES, readout, tiny

from reference import dola_float64
from reference.scoring import FLOOR, Recipe, contrast, jsd, lm_score, log_softmax, reference_divergence, score_ids

P = torch.tensor([0.5, 0.3, 0.15, 0.05], dtype=torch.float64).log()
UNIFORM = torch.full((4,), 0.25, dtype=torch.float64).log()
IDS = [1, 5, 17, 200, 33, 8, 91, 4]


def test_raw_contrast_by_hand():
    # against a uniform layer the contrast is log(4 p)
    assert contrast(P, UNIFORM, Recipe((1,))).exp().tolist() == pytest.approx([2.0, 1.2, 0.6, 0.2])


def test_normalised_contrast_by_hand():
    # log(4 p) normalized is log p; the threshold is 0.2 * 0.5, and the token below it falls to the floor afterwards
    scores = contrast(P, UNIFORM, Recipe((1,), relative_top=0.2, post_softmax=True))
    assert scores.exp().tolist() == pytest.approx([0.5, 0.3, 0.15, 0.0])
    assert scores[3] == FLOOR


def test_masking_first_gives_the_plausible_tokens_all_mass():
    scores = contrast(P, UNIFORM, Recipe((1,), relative_top=0.2, post_softmax=True, mask_first=True))
    assert scores[:3].exp().tolist() == pytest.approx([0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95])
    assert scores[3] == FLOOR


def test_divergences_are_the_judges():
    logits = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    log_p, log_q = log_softmax(logits[0]), log_softmax(logits[1])
    lists = logits.tolist()
    assert jsd(log_p, log_q) == pytest.approx(dola_float64.jsd(*lists), rel=1e-10)
    assert reference_divergence(log_p, log_q) == pytest.approx(dola_float64.reference_divergence(*lists), rel=1e-10)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("divergence", ["jsd", "reference"])
@pytest.mark.parametrize(("final_norm", "relative_top"), [(False, 0.0), (True, 0.1)])
def test_scores_of_a_model_are_the_judges(name, divergence, final_norm, relative_top):
    model, family, layers = tiny(name, dtype=torch.float64), FAMILIES[name], (0, 2, 4)

    def read(hidden):
        return readout(model, family, hidden, final_norm=final_norm, raw_head=not final_norm)

    recipe = Recipe(layers, divergence=divergence, relative_top=relative_top)
    scored = score_ids(model, IDS, 4, recipe, readout=read if final_norm else None, dtype=torch.float64)
    with torch.no_grad():
        out = model(torch.tensor([IDS]), output_hidden_states=True)
    for index, position in enumerate((3, 4, 5, 6)):
        mature = out.logits[0, position].tolist()
        premature = [read(out.hidden_states[layer][0, position]).tolist() for layer in layers]
        expected = dola_float64.contrast(mature, premature, relative_top, divergence)[IDS[position + 1]]
        assert scored.layers[index] == layers[dola_float64.select(mature, premature, divergence)]
        assert scored.token_scores[index] == pytest.approx(max(expected, FLOOR), abs=1e-9)
    assert len(scored.token_scores) == 4


def test_vanilla_is_the_cross_entropy(llama):
    scored = score_ids(llama, IDS, 3, Recipe(None))
    with torch.no_grad():
        logits = llama(torch.tensor([IDS])).logits[0, 2:-1]
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(IDS[3:]), reduction="sum")
    assert scored.total == pytest.approx(-loss.item(), abs=1e-4)
    assert scored.layers == ()


def test_the_context_is_not_scored():
    model, words = tiny("llama", vocab_size=512), tokenizer()
    scored = lm_score(model, words, "Q: why?\nA:", " so.", Recipe((1, 3)))
    ids = words("Q: why?\nA: so.")["input_ids"]
    assert scored == score_ids(model, ids, len(words("Q: why?\nA:")["input_ids"]), Recipe((1, 3)))
    assert len(scored.token_scores) == len(words(" so.")["input_ids"])
    assert math.isfinite(scored.total)
