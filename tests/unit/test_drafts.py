"""Drafts are tried where they pay: judged by the tokens that come, whether they were tried or not."""

import pytest
import torch
from transformers.generation import CandidateGenerator

import dola
from dola.decoding.cost import forward_cost
from dola.decoding.drafts import Acceptance, Drafts, best_length

DEAR = lambda rows: 1 + 0.25 * (rows - 1)  # noqa: E731
FREE = lambda rows: 1.0  # noqa: E731


class Says(CandidateGenerator):
    """Proposes the given tokens."""

    requires_model_outputs = False

    def __init__(self, propose):
        self.propose = propose

    def get_candidates(self, input_ids, **kwargs):
        proposed = torch.tensor([self.propose(input_ids[0].tolist())], dtype=input_ids.dtype).view(1, -1)
        return torch.cat([input_ids, proposed], dim=1), None

    def update_candidate_strategy(self, input_ids, scores, num_matches):
        pass


def lengths(drafts, tokens):
    """How many drafts were tried at each step of a decoder whose true tokens are `tokens`."""
    tried, at = [], 1
    while at < len(tokens):
        candidates, _ = drafts.get_candidates(torch.tensor([tokens[:at]]))
        proposed = candidates[0, at:].tolist()
        tried.append(len(proposed))
        right = 0
        while right < len(proposed) and at + right < len(tokens) and proposed[right] == tokens[at + right]:
            right += 1
        at += right + 1
    return tried


def test_drafting_soon_stops_when_drafts_are_wrong():
    tried = lengths(Drafts(Says(lambda ids: [7, 7, 7, 7]), DEAR), [1] * 200)
    assert tried[0] > 0
    assert sum(tried) <= 6
    assert tried[20:] == [0] * len(tried[20:])


def test_right_drafts_are_tried_in_full():
    tried = lengths(Drafts(Says(lambda ids: [1, 1, 1, 1]), DEAR), [1] * 200)
    assert set(tried[3:-2]) == {4}
    assert len(tried) < 60


def test_drafting_resumes_when_proposals_become_right():
    truth = [1, 2, 3] * 30 + [7] * 100
    tried = lengths(Drafts(Says(lambda ids: [7, 7, 7, 7]), DEAR), truth)
    assert sum(tried[10:88]) == 0
    assert tried.count(4) >= 15


def test_no_proposal_no_draft():
    assert set(lengths(Drafts(Says(lambda ids: []), FREE), list(range(1, 50)))) == {0}


@pytest.mark.parametrize(
    ("proposed", "first", "next_", "cost", "expected"),
    [
        (5, 1.0, 1.0, FREE, 5),
        (5, 0.01, 0.01, FREE, 5),  # where they cost nothing, even unlikely ones are worth a try
        (5, 0.1, 0.3, DEAR, 0),
        (5, 1.0, 1.0, DEAR, 5),
        (9, 0.9, 0.5, DEAR, 2),
        (0, 1.0, 1.0, FREE, 0),
    ],
)
def test_the_length_with_the_most_tokens_for_the_cost(proposed, first, next_, cost, expected):
    assert best_length(proposed, first, next_, cost) == expected


def test_the_latest_judgements_count_most():
    acceptance = Acceptance(0.5, 1)
    for right in [True] * 50 + [False] * 20:
        acceptance.judge(right)
    assert acceptance.share < 0.15
    for _ in range(20):
        acceptance.judge(True)
    assert acceptance.share > 0.8


def test_generate_tries_few_drafts_where_the_text_does_not_repeat(llama):
    """Counted in rows through the model; the tokens are those without drafts."""
    prompt = torch.tensor([[5, 17, 200, 33, 5, 18, 201, 33, 5, 19]])
    settings = {"max_new_tokens": 60, "do_sample": True, "top_k": 0, "pad_token_id": 0, "eos_token_id": 400}
    widths = []
    handle = llama.register_forward_pre_hook(
        lambda m, args, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        torch.manual_seed(0)
        llama.generate(prompt, **settings, prompt_lookup_num_tokens=8)
        plain, widths[:] = sum(widths[1:]), []
        torch.manual_seed(0)
        with dola.attach(llama):
            llama.generate(prompt, **settings, prompt_lookup_num_tokens=8)
    finally:
        handle.remove()
    assert sum(widths[1:]) < plain


def test_a_forward_over_more_rows_costs_more():
    settings = {"candidates": 8, "head_share": 0.2, "device": "cpu", "dtype": torch.float32}
    costs = [forward_cost(rows, **settings) for rows in range(1, 12)]
    assert costs == sorted(costs)
    assert costs[0] == 1
    assert 2 < costs[-1] < 4
    assert forward_cost(11, **settings | {"candidates": 15}) > costs[-1]
    assert forward_cost(11, **settings | {"device": "cuda", "dtype": torch.bfloat16}) < 1.2


def test_the_heads_share_of_the_weights(llama):
    anatomy = dola.Anatomy.of(llama)
    head = llama.lm_head.weight.numel()
    blocks = sum(weight.numel() for weight in llama.model.layers.parameters())
    assert anatomy.head_share == head / (head + blocks)
