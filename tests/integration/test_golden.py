"""DoLaConfig.reference against what transformers 4.55.4 decoded, token for token (see golden/make_golden.py)."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

import dola

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "transformers_4_55_4.json").read_text())
RECORDS = {
    f"{r['model']} {r['layers']} x{r['repetition_penalty']} #{i}": r
    for i, r in enumerate(GOLDEN["records"])
    if r["layers"] is not None
}
ROUNDING = 1e-3
"""Differences between logits that one processor's rounding makes and another's does not."""
BEGINNING = 10
"""Number of tokens that `generate` has to repeat; with a repetition penalty all of them."""
ONE_OF_EACH = {(r["model"], str(r["layers"]), r["repetition_penalty"]): name for name, r in RECORDS.items()}


@pytest.fixture
def model(request, record):
    return request.getfixturevalue({"smollm2": "smollm2", "gemma3-270m": "gemma3"}[record["model"]]).model


@pytest.fixture
def record(request):
    return RECORDS[request.param]


@pytest.mark.parametrize("record", RECORDS, indirect=True)
def test_every_token_follows_from_the_ones_before(record, model):
    """One forward over prompt and recorded tokens: each recorded token must be the choice at its position.

    By induction this is what generate does token by token, at a twentieth of the time. Processors round products of float32
    each in their own way, so where the two choices tie, or one of them lies on the edge of the plausible set, either is right.
    """
    prompt, new = record["prompt_ids"], record["new_ids"]
    ids = torch.tensor([prompt + new])
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(record["repetition_penalty"])])
    with torch.no_grad(), dola.attach(model, dola.DoLaConfig.reference(record["layers"])):
        scores = model(ids[:, :-1], logits_to_keep=len(new)).logits[0]
    mature, tipped = None, 0
    for step, token in enumerate(new):
        final = processors(ids[:, : len(prompt) + step], scores[step][None].clone())[0]
        choice = int(final.argmax())
        if choice == token:
            continue
        tipped += 1
        mature = plainly(model, ids, len(new)) if mature is None else mature
        edge = mature[step].max() + math.log(0.1)
        on_edge = any(abs(float(mature[step, each] - edge)) < ROUNDING for each in (choice, token))
        assert on_edge or final[choice] - final[token] < ROUNDING, step
    assert tipped <= 1


def plainly(model, ids, keep):
    with torch.no_grad():
        return model(ids[:, :-1], logits_to_keep=keep).logits[0]


@pytest.mark.parametrize("record", ONE_OF_EACH.values(), indirect=True)
def test_generate_produces_the_recorded_tokens(record, model):
    """The path through the cache: with a repetition penalty all tokens, else the first; the test above has all."""
    whole = record["repetition_penalty"] == 1.2
    length = record["max_new_tokens"] if whole else BEGINNING
    ids = torch.tensor([record["prompt_ids"]])
    with dola.attach(model, dola.DoLaConfig.reference(record["layers"])):
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=length,
            repetition_penalty=record["repetition_penalty"],
            pad_token_id=0,
        )
    assert out[0, ids.shape[1] :].tolist() == record["new_ids"][:length]
