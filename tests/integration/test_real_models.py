"""On real weights: batches, order, padding; the readout; what bf16 may change."""

import pytest
import torch

import dola
from dola.anatomy import READOUT_TOLERANCE

PROMPTS = [
    "The capital of Washington State is",
    "Q: When did Wole Soyinka win the Nobel Prize in Literature?\nA:",
    "Paris",
    "On what date was the Declaration of Independence officially signed? It was",
    "def add(a, b):\n    return",
    "List three facts about the moon, and say for each of them how it was found out.\n1.",
    "Water boils at",
    "Once upon a time there was a fox who",
]
CONFIGS = {
    "high": dola.DoLaConfig("high"),
    "low": dola.DoLaConfig("low"),
    "static": dola.DoLaConfig([14]),
    "reference": dola.DoLaConfig.reference("high"),
    "eager, no constraint": dola.DoLaConfig("high", relative_top=0.0, lazy=False),
}
SETTINGS = {"do_sample": False, "max_new_tokens": 12, "repetition_penalty": 1.2}


def generate(model, tokenizer, prompts):
    inputs = tokenizer(prompts, return_tensors="pt", padding=True)
    out = model.generate(**inputs, **SETTINGS, pad_token_id=tokenizer.pad_token_id)
    return out[:, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_the_same_alone_in_a_batch_and_in_any_order(smollm2, name):
    with dola.attach(smollm2.model, CONFIGS[name]):
        alone = [generate(*smollm2, [prompt])[0] for prompt in PROMPTS]
        together = generate(*smollm2, PROMPTS)
        order = [3, 7, 1, 0, 6, 2, 5, 4]
        shuffled = generate(*smollm2, [PROMPTS[i] for i in order])
    for i, tokens in enumerate(alone):
        assert together[i][: len(tokens)] == tokens
        assert shuffled[order.index(i)][: len(tokens)] == tokens


def test_gemma_tokens_are_the_same_alone_and_in_a_batch(gemma3):
    with dola.attach(gemma3.model, "high"):
        alone = [generate(*gemma3, [prompt])[0] for prompt in PROMPTS[:4]]
        together = generate(*gemma3, PROMPTS[:4])
    assert [row[: len(tokens)] for row, tokens in zip(together, alone, strict=True)] == alone


@pytest.mark.parametrize("alias", ["smollm2", "gemma3"])
def test_readout_of_the_last_layer(request, alias):
    model, tokenizer = request.getfixturevalue(alias)
    anatomy, seen = dola.Anatomy.of(model), []
    handle = anatomy.blocks[-1].register_forward_hook(lambda m, a, o: seen.append(o[0] if isinstance(o, tuple) else o))
    with torch.no_grad():
        logits = model(**tokenizer(PROMPTS[0], return_tensors="pt")).logits
    handle.remove()
    assert anatomy.readout_error(seen[0], logits) < READOUT_TOLERANCE[torch.float32] / 100


def test_dola_changes_answers(smollm2):
    """A build that decodes plainly fails here."""
    plain = [generate(*smollm2, [prompt])[0] for prompt in PROMPTS[:3]]
    with dola.attach(smollm2.model, "high"):
        contrasted = [generate(*smollm2, [prompt])[0] for prompt in PROMPTS[:3]]
    assert plain != contrasted


def test_in_bfloat16_every_first_difference_is_a_near_tie(smollm2):
    """The contrast amplifies rounding: the tolerance is 0.5 nats between the two best scores."""
    import copy

    model, tokenizer = smollm2
    low = copy.deepcopy(model).to(torch.bfloat16)
    for prompt in PROMPTS[:4]:
        ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
        with dola.attach(model, "high"), dola.attach(low, "high"):
            exact = model.generate(ids, **SETTINGS, pad_token_id=0)[0]
            rounded = low.generate(ids, **SETTINGS, pad_token_id=0)[0]
            length = min(len(exact), len(rounded))
            differs = (exact[:length] != rounded[:length]).nonzero()
            if len(differs):
                scores = model(exact[None, : int(differs[0])], logits_to_keep=1).logits[0, -1]
                assert scores[exact[differs[0]]] - scores[rounded[differs[0]]] < 0.5 * 1.2
