"""What goes with DoLa in a request: probabilities, bans, sampling, structured outputs. Tiny random models, one engine."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from engines import Engine, Judge, options_for

import dola

PROMPTS = ["abc def", "Hello there", "1 2 3 4", "xyz", "What is it?", "the end"]
HIGH = {"dola_layers": "high"}


@pytest.fixture(scope="module")
def judge(tiny_folder: Any) -> Judge:
    return Judge(tiny_folder)


def _logits(judge: Judge, ids: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mature logits [V] and contrastive scores [V] after these tokens."""
    with torch.no_grad():
        mature = judge.model(torch.tensor([ids])).logits[0, -1]
        with dola.attach(judge.model, "high"):
            return mature, judge.model(torch.tensor([ids])).logits[0, -1]


@pytest.mark.parametrize("layers", [None, "high", "low", "all", [0, 3], [5], "2,4"])
def test_layers(layers: Any, tiny_engine: Engine, judge: Judge):
    named = [2, 4] if layers == "2,4" else layers
    expected = [judge.tokens(prompt, named) for prompt in PROMPTS]
    assert tiny_engine.tokens(PROMPTS, options_for(layers)) == expected


@pytest.mark.parametrize(
    ("options", "config"),
    [
        ({"dola_relative_top": 0.4}, dola.DoLaConfig("high", relative_top=0.4)),
        ({"dola_relative_top": 0}, dola.DoLaConfig("high", relative_top=0.0)),
        ({"dola_divergence": "reference"}, dola.DoLaConfig("high", divergence="reference")),
        ({"dola_final_norm": False}, dola.DoLaConfig("high", final_norm=False)),
        ({"dola_final_norm": 0, "dola_divergence": "reference"}, dola.DoLaConfig.reference("high")),
    ],
)
def test_settings_of_the_method(options: dict[str, Any], config: Any, tiny_engine: Engine, judge: Judge):
    expected = [judge.tokens(prompt, config) for prompt in PROMPTS]
    assert tiny_engine.tokens(PROMPTS, {**HIGH, **options}) == expected


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.3}, {"presence_penalty": 1.5}, {"frequency_penalty": 1.5}], ids=lambda p: next(iter(p))
)
def test_penalties_act_on_the_contrast(penalty: dict[str, float], tiny_engine: Engine, judge: Judge):
    found = tiny_engine.tokens(PROMPTS, HIGH, **penalty)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        ids, answer = judge.tokenizer(prompt)["input_ids"], []
        for _ in tokens:
            scores = _logits(judge, ids + answer)[1].clone()
            for token in set(answer) | (set(ids) if "repetition_penalty" in penalty else set()):
                if "repetition_penalty" in penalty:
                    scores[token] = scores[token] / 1.3 if scores[token] > 0 else scores[token] * 1.3
                else:
                    scores[token] -= 1.5 * (answer.count(token) if "frequency_penalty" in penalty else 1)
            answer.append(int(scores.argmax()))
        assert tokens == answer


def test_logprobs_are_of_the_contrast(tiny_engine: Engine, judge: Judge):
    output = tiny_engine.outputs(["abc def"], HIGH, logprobs=5)[0].outputs[0]
    ids = judge.tokenizer("abc def")["input_ids"]
    for position, found in enumerate(output.logprobs):
        expected = _logits(judge, ids + list(output.token_ids[:position]))[1].log_softmax(-1)
        top = expected.topk(5)
        assert {token for token in found if found[token].rank <= 5} == set(top.indices.tolist())
        for token, logprob in found.items():
            assert logprob.logprob == pytest.approx(expected[token].item(), abs=5e-3)


def test_logprobs_of_a_prompt_are_the_models_own(tiny_engine: Engine, judge: Judge):
    """Also beside a request with DoLa. A request with DoLa is refused, because they would not be DoLa's."""
    from vllm.exceptions import VLLMValidationError

    prompts = ["abc def", "abc def"]
    output, other = tiny_engine.outputs(prompts, [{}, HIGH], prompt_logprobs=[2, None])
    ids = judge.tokenizer("abc def")["input_ids"]
    with torch.no_grad():
        own = judge.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    for position, found in enumerate(output.prompt_logprobs[1:]):
        for token, value in found.items():
            assert value.logprob == pytest.approx(own[position, token].item(), abs=1e-3)
    assert list(output.outputs[0].token_ids) == judge.tokens("abc def")
    assert list(other.outputs[0].token_ids) == judge.tokens("abc def", "high")
    with pytest.raises(VLLMValidationError, match="vLLM's log-probabilities of a prompt are the model's own"):
        tiny_engine.outputs(prompts, HIGH, prompt_logprobs=2)


def test_beams_are_plain_where_dola_is_off_by_default(tiny_engine: Engine, judge: Judge):
    """Beam search builds its own sampling parameters, so a request cannot ask for DoLa."""
    from vllm.sampling_params import BeamSearchParams

    found = tiny_engine.llm.beam_search([{"prompt": "abc def"}], BeamSearchParams(beam_width=2, max_tokens=6))
    inputs = judge.tokenizer("abc def", return_tensors="pt")
    expected = judge.model.generate(**inputs, num_beams=2, max_new_tokens=6, do_sample=False, early_stopping=True)
    assert found[0].sequences[0].tokens == expected[0].tolist()


def _decided(judge: Judge, prompt: str, steps: int, banned: Any, bias: dict[int, float] | None = None) -> tuple[list[int], int]:
    """Tokens by the rule, one position after the other, and how many rows lost their plausible set."""
    ids, answer, lost = judge.tokenizer(prompt)["input_ids"], [], 0
    for _ in range(steps):
        mature, scores = _logits(judge, ids + answer)
        plausible = scores > -500
        bans = torch.zeros_like(plausible)
        bans[list(banned(answer))] = True
        row = scores
        if not (plausible & ~bans).any():
            row, lost = mature, lost + 1
        row = row.masked_fill(bans, -math.inf)
        answer.append(int(row.argmax()))
    return answer, lost


def test_rows_that_lose_their_plausible_set_are_decided_by_the_mature_scores(tiny_engine: Engine, judge: Judge):
    total = 0
    for prompt in PROMPTS:
        likely = set(judge.tokens(prompt, "high"))
        mature, scores = _logits(judge, judge.tokenizer(prompt)["input_ids"])
        likely |= set((scores > -500).nonzero()[:, 0].tolist())
        allowed = [token for token in range(len(mature)) if token not in likely]
        expected, lost = _decided(judge, prompt, 8, lambda _, banned=likely: banned)
        total += lost
        assert tiny_engine.tokens([prompt], HIGH, max_tokens=8, allowed_token_ids=allowed) == [expected]
        hard = dict.fromkeys(likely, -100.0)
        assert tiny_engine.tokens([prompt], HIGH, max_tokens=8, logit_bias=hard) == [expected]
    assert total >= len(PROMPTS)


def test_bad_words(tiny_engine: Engine, judge: Judge):
    for prompt in PROMPTS:
        first = judge.tokens(prompt, "high")[0]
        word = judge.tokenizer.decode([first])
        if judge.tokenizer.encode(word) != [first] or not word.strip():
            continue
        tokens = tiny_engine.tokens([prompt], HIGH, bad_words=[word])[0]
        assert first not in tokens


def test_a_minimal_length_never_lets_an_implausible_token_win(tiny_engine: Engine, judge: Judge):
    """`min_tokens` bans the ends: where one was all that is plausible, the likeliest other token comes."""
    for prompt in PROMPTS:
        first = judge.tokens(prompt, "high")[0]
        expected, _ = _decided(judge, prompt, 4, lambda answer, first=first: {first} if len(answer) < 4 else set())
        found = tiny_engine.tokens([prompt], HIGH, max_tokens=4, min_tokens=4, stop_token_ids=[first])
        assert found == [expected]


def test_structured_outputs(tiny_engine: Engine):
    from vllm.sampling_params import StructuredOutputsParams

    choice = StructuredOutputsParams(choice=["yes", "no"])
    outputs = tiny_engine.outputs(PROMPTS, HIGH, structured_outputs=choice)
    assert {output.outputs[0].text for output in outputs} <= {"yes", "no"}


def test_sampling_draws_from_the_contrast(tiny_engine: Engine, judge: Judge):
    """Never an implausible token, and the shares of the plausible ones are those of the contrast."""
    output = tiny_engine.outputs(["abc def"], HIGH, temperature=1.0, max_tokens=1, n=400, seed=3)[0]
    drawn = [sequence.token_ids[0] for sequence in output.outputs]
    expected = _logits(judge, judge.tokenizer("abc def")["input_ids"])[1].softmax(-1)
    for token in set(drawn):
        share = expected[token].item()
        assert share > 0
        assert drawn.count(token) / 400 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 400) + 1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dola_layers": "hihg"}, "is not a bucket"),
        ({"dola_layers": [99]}, "does not exist"),
        ({"dola_layers": []}, "names no candidate layer"),
        ({"dola_layers": [3, 3]}, "is listed twice"),
        ({"dola_relative_top": 2, "dola_layers": "high"}, "out of range"),
        ({"dola_relative_top": 0.2}, "DoLa is off for requests that do not name layers"),
        ({"dola_divergence": "kl", "dola_layers": "high"}, "unknown"),
        ({"dola_final_norm": "yes", "dola_layers": "high"}, "is not a bool"),
        ({"dola_layer": "high"}, "is not an option of DoLa"),
        ({"dloa_layers": "high"}, "is not an option of DoLa"),
        ({"layers": "high"}, "is not an option of DoLa"),
        ({"dola_layers": "off", "dola_relative_top": 0.2}, "omit one of the two"),
        ({"dola_method": "slde"}, "method='slde' is unknown"),
        ({"dola_method": "sled", "dola_relative_top": 0.2}, "is not an option of the method 'sled'"),
        ({"dola_method": "confident", "dola_probability": 0.5}, "'confident' draws at each position"),
    ],
)
def test_bad_options_are_refused_and_the_engine_continues(options: dict[str, Any], words: str, tiny_engine: Engine):
    from vllm.exceptions import VLLMValidationError  # its server answers these with HTTP 400

    with pytest.raises(VLLMValidationError, match=words):
        tiny_engine.tokens(["abc"], options)
    assert tiny_engine.tokens(["abc"], HIGH)[0]  # and the engine goes on
