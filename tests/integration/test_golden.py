"""DoLaConfig.reference against what transformers 4.55.4 decoded, token for token (see golden/make_golden.py)."""

import json
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

    By induction this is what generate does token by token, at a twentieth of the time.
    """
    prompt, new = record["prompt_ids"], record["new_ids"]
    ids = torch.tensor([prompt + new])
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(record["repetition_penalty"])])
    with torch.no_grad(), dola.attach(model, dola.DoLaConfig.reference(record["layers"])):
        scores = model(ids[:, :-1], logits_to_keep=len(new)).logits[0]
    chosen = [int(processors(ids[:, : len(prompt) + step], scores[step][None].clone()).argmax()) for step in range(len(new))]
    assert chosen == new


@pytest.mark.parametrize("record", ONE_OF_EACH.values(), indirect=True)
def test_generate_produces_the_recorded_tokens(record, model):
    ids = torch.tensor([record["prompt_ids"]])
    with dola.attach(model, dola.DoLaConfig.reference(record["layers"])):
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=record["max_new_tokens"],
            repetition_penalty=record["repetition_penalty"],
            pad_token_id=0,
        )
    assert out[0, ids.shape[1] :].tolist() == record["new_ids"]
