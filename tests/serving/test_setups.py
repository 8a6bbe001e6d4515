"""Other ways of running the same engine: several workers, the other model runner, compiled. Each in a process of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from each_method import METHODS
from engines import Judge, options_for, save_tiny
from setups import SETUPS, decode

import dola

PROMPTS = ["abc def", "Hello there", "1 2 3 4", "xyz", "What is it?", "the end"]
WAYS: list[Any] = [None, "high", "low", [2, 4], *METHODS.values()]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in SETUPS if name != "tensor parallel"]


@pytest.fixture(scope="module")
def judge(tiny_folder: Path) -> Judge:
    return Judge(tiny_folder)


def _requests_and_tokens(judge: Judge) -> tuple[list[Any], list[list[list[int]]]]:
    """All ways, DoLa's with a penalty too, and a batch of all of them."""
    requests, expected = [], []
    for penalty, ways in ((1.0, WAYS), (1.2, WAYS[: -len(METHODS)])):
        for layers in ways:
            requests.append({"prompts": PROMPTS, "options": options_for(layers), "sampling": {"repetition_penalty": penalty}})
            expected.append([judge.tokens(prompt, layers, repetition_penalty=penalty) for prompt in PROMPTS])
    assert all(found != expected[0] for found in expected[1 : len(WAYS)])  # or all ways would seem right
    prompts = [PROMPTS[i % len(PROMPTS)] for i in range(len(WAYS))]
    requests.append(
        {
            "prompts": prompts,
            "options": [options_for(layers) for layers in WAYS],
            "sampling": {"prompt_logprobs": [1 if layers is None else None for layers in WAYS]},
        }
    )
    expected.append([judge.tokens(prompt, layers) for prompt, layers in zip(prompts, WAYS, strict=True)])
    old = dola.DoLaConfig("high", divergence="reference", final_norm=False)
    options = {"dola_layers": "high", "dola_divergence": "reference", "dola_final_norm": 0}
    requests.append({"prompts": PROMPTS, "options": options, "sampling": {}})
    expected.append([judge.tokens(prompt, old) for prompt in PROMPTS])
    return requests, expected


@pytest.mark.parametrize("name", ["tensor parallel", *SLOW])
def test_tokens_are_those_of_transformers(name: str, tiny_folder: Path, judge: Judge):
    requests, expected = _requests_and_tokens(judge)
    assert decode(tiny_folder, name, requests) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", SETUPS)
@pytest.mark.parametrize("family", ["gemma2", "gpt2"])
def test_layers_that_blocks_carry(family: str, name: str, tmp_path: Path):
    """Gemma 2's go apart from a residual, GPT-2's are the residual stream itself."""
    sizes = {"n_embd": 64, "num_attention_heads": 2} if family == "gpt2" else {}
    folder = save_tiny(tmp_path / family, family, **sizes)
    requests, expected = _requests_and_tokens(Judge(folder))
    assert decode(folder, name, requests) == expected


@pytest.mark.parametrize("name", ["tensor parallel", pytest.param("runner V2", marks=pytest.mark.slow)])
def test_bans(name: str, tiny_folder: Path, judge: Judge):
    """The first token by the rule: where nothing plausible is left, the mature scores decide, under the same penalty."""
    requests, expected = [], []
    for prompt in PROMPTS[:3]:
        ids = judge.tokenizer(prompt)["input_ids"]
        with torch.no_grad():
            mature = judge.model(torch.tensor([ids])).logits[0, -1]
        ranked = mature.argsort(descending=True).tolist()
        plausible = {token for token in ranked if mature[token] >= mature.max() + torch.tensor(0.1).log()}
        allowed = [token for token in ranked if token not in plausible]
        penalised = mature.clone()
        for token in set(ids):
            penalised[token] = penalised[token] / 1.3 if penalised[token] > 0 else penalised[token] * 1.3
        sampling = {"max_tokens": 1, "repetition_penalty": 1.3}
        for ban in ({"allowed_token_ids": allowed}, {"logit_bias": dict.fromkeys(map(str, plausible), -100.0)}):
            requests.append({"prompts": [prompt], "options": options_for("high"), "sampling": {**sampling, **ban}})
            expected.append([[max(allowed, key=lambda token, scores=penalised: scores[token].item())]])
    assert decode(tiny_folder, name, requests) == expected
