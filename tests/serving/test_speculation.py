"""Speculation by n-grams: the tokens of DoLa without it, from fewer forward passes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from each_method import METHODS
from engines import Engine, Judge, options_for

import dola

PROMPTS = ["abc def abc def abc", "1 2 3 1 2 3 1 2", "xyz", "the end of the end of the"]
NGRAM = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 3, "prompt_lookup_min": 1}
WAYS: list[Any] = [None, "high", "low", [2, 4], *METHODS.values()]


@pytest.fixture(scope="module")
def engine(tiny_folder: Path) -> Any:
    settings = {"layers": "high", "capture": "all", "default": "off"}
    with Engine(tiny_folder, settings, speculative_config=NGRAM, disable_log_stats=False) as engine:
        yield engine


@pytest.fixture(scope="module")
def judge(tiny_folder: Path) -> Judge:
    return Judge(tiny_folder)


def _drafts(engine: Engine) -> tuple[int, int]:
    """Drafts so far: how many there were, and how many were kept."""
    found = {metric.name: getattr(metric, "value", 0) for metric in engine.llm.get_metrics()}
    return found["vllm:spec_decode_num_draft_tokens"], found["vllm:spec_decode_num_accepted_tokens"]


@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_tokens_are_those_without_it(penalty: float, engine: Engine, judge: Judge):
    """Each way alone, then all in one batch. Some drafts must be kept and some rejected, or the test shows nothing."""
    before = _drafts(engine)
    sampling = {"max_tokens": 32, "repetition_penalty": penalty}
    expected = [
        [judge.tokens(prompt, way, max_new_tokens=32, repetition_penalty=penalty) for prompt in PROMPTS] for way in WAYS
    ]
    for way, tokens in zip(WAYS, expected, strict=True):
        assert engine.tokens(PROMPTS, options_for(way), **sampling) == tokens, way
    options = [options_for(way) for way in WAYS for _ in PROMPTS]
    found = engine.tokens(PROMPTS * len(WAYS), options, **sampling)
    assert found == [tokens for each in expected for tokens in each]
    drafted, kept = (after - earlier for after, earlier in zip(_drafts(engine), before, strict=True))
    assert 0 < kept < drafted


def _scores(judge: Judge, output: Any, sequence: Any) -> list[float]:
    """Log-softmax of the contrast, for the tokens of a sequence."""
    ids, start = [*output.prompt_token_ids, *sequence.token_ids], len(output.prompt_token_ids)
    with torch.no_grad(), dola.attach(judge.model, "high"):
        rows = judge.model(torch.tensor([ids])).logits[0, start - 1 : -1].log_softmax(-1)
    return [row[token].item() for row, token in zip(rows, sequence.token_ids, strict=True)]


def test_log_probabilities_are_those_of_the_contrast(engine: Engine, judge: Judge):
    for output in engine.outputs(PROMPTS, options_for("high"), max_tokens=24, logprobs=0):
        (sequence,) = output.outputs
        found = [each[token].logprob for each, token in zip(sequence.logprobs, sequence.token_ids, strict=True)]
        assert found == pytest.approx(_scores(judge, output, sequence), abs=1e-3)


@pytest.mark.parametrize(
    "more",
    [{"min_tokens": 4}, {"bad_words": ["x"]}, {"allowed_token_ids": [5, 6, 7]}, {"temperature": 0.7}],
    ids=lambda more: next(iter(more)),
)
def test_lossy_speculation_is_refused_with_dola(more: dict[str, Any], engine: Engine):
    from vllm.exceptions import VLLMValidationError

    with pytest.raises(VLLMValidationError, match="on a server that speculates"):
        engine.tokens(PROMPTS, options_for("high"), **more)
    assert engine.tokens(PROMPTS, **more)
