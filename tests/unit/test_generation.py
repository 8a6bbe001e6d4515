"""generate on an attached model: masks that empty the plausible set, lazy contrast, what is returned."""

import copy
import re

import pytest
import torch
from families import tiny
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, RepetitionPenaltyLogitsProcessor

import dola
from dola.contrast import plausible
from dola.errors import InputError

PROMPT = torch.tensor([[5, 17, 200], [33, 8, 91], [7, 30, 9]])


class BanPlausible(LogitsProcessor):
    """Bans all plausible tokens of the plain model in some rows, and some tokens in others; counts its calls."""

    def __init__(self, plain, vocab=401):
        self.plain, self.vocab, self.calls, self.emptied = plain, vocab, 0, 0

    def mask(self, input_ids):
        inside = plausible(self.plain(input_ids).logits[:, -1])
        empty = (input_ids.sum(-1) % 2 == 0)[:, None]
        some = torch.rand(inside.shape, generator=torch.Generator().manual_seed(int(input_ids.sum()))) < 0.5
        return torch.where(empty, inside, some)

    def __call__(self, input_ids, scores):
        self.calls += 1
        mask = self.mask(input_ids)
        self.emptied += int((mask | ~plausible(self.plain(input_ids).logits[:, -1])).all(-1).sum())
        return scores.masked_fill(mask, -torch.inf)


class WriteInPlace(BanPlausible):
    """Writes into the scores it receives, as some processors do."""

    def __call__(self, input_ids, scores):
        return scores.copy_(super().__call__(input_ids, scores))


class FloorInsteadOfInf(BanPlausible):
    """Bans with the lowest float instead of -inf, as some processors do."""

    def __call__(self, input_ids, scores):
        banned = super().__call__(input_ids, scores)
        return banned.masked_fill(banned.isneginf(), torch.finfo(scores.dtype).min)


def expected_scores(plain, attached_scores, input_ids, processors):
    """Contrast-then-processors; rows left without a plausible token as plain decoding with the same processors."""
    mature = plain(input_ids).logits[:, -1].float()
    contrasted = processors(input_ids, attached_scores.clone())
    inside = plausible(mature)
    lowest = torch.finfo(torch.float32).min
    lost = contrasted.masked_fill(~inside, lowest).amax(-1) <= lowest
    return torch.where(lost[:, None], processors(input_ids, mature.clone()), contrasted), lost


@pytest.mark.parametrize(
    ("ban", "dtype"),
    [
        (BanPlausible, torch.float32),
        (WriteInPlace, torch.float32),
        (FloorInsteadOfInf, torch.float32),
        (BanPlausible, torch.float64),
    ],
)
@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("do_sample", [False, True], ids=["greedy", "sampling"])
def test_rows_without_plausible_tokens_follow_the_mature_scores(penalty, do_sample, ban, dtype):
    model = tiny("llama", dtype=dtype)
    plain, masker = copy.deepcopy(model), ban(model)
    masker.plain = plain
    with dola.attach(model, "high"):
        torch.manual_seed(0)
        out = model.generate(
            PROMPT,
            attention_mask=torch.ones_like(PROMPT),
            logits_processor=LogitsProcessorList([masker]),
            repetition_penalty=penalty,
            do_sample=do_sample,
            max_new_tokens=16,
            return_dict_in_generate=True,
            output_scores=True,
            **({"top_k": 0} if do_sample else {}),
        )
    assert masker.calls == 16  # once a step: grammars keep state
    assert masker.emptied > 5
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), ban(plain)])
    lost_rows = 0
    for step, scores in enumerate(out.scores):
        so_far = out.sequences[:, : 3 + step]
        with dola.attach(model, "high"):
            contrasted = model(so_far).logits[:, -1].float()
        expected, lost = expected_scores(plain, contrasted, so_far, processors)
        lost_rows += int(lost.sum())
        torch.testing.assert_close(scores, expected, atol=2e-3, rtol=1e-3)
        if do_sample:
            assert (expected.softmax(-1).gather(-1, out.sequences[:, 3 + step, None]) > 0).all()
        else:
            assert torch.equal(out.sequences[:, 3 + step], expected.argmax(-1))
    assert lost_rows > 5


def test_a_set_emptied_by_two_processors_together(llama):
    """Each bans half of the plausible tokens; the second finds the row empty."""
    plain = copy.deepcopy(llama)
    first = plain(PROMPT).logits[:, -1]
    inside = plausible(first).any(0).nonzero()[:, 0].tolist()
    settings = {"attention_mask": torch.ones_like(PROMPT), "do_sample": False, "max_new_tokens": 1}
    halves = {"bad_words_ids": [[t] for t in inside[::2]], "suppress_tokens": inside[1::2]}
    with dola.attach(llama):
        out = llama.generate(PROMPT, **settings, **halves)
    assert torch.equal(out, plain.generate(PROMPT, **settings, **halves))
    assert not set(out[:, -1].tolist()) & set(inside)


@pytest.mark.parametrize(
    "ban",
    [
        {"min_new_tokens": 3, "eos_token_id": 0},
        {"forced_eos_token_id": 77},
        {"no_repeat_ngram_size": 1},
        {"prefix_allowed_tokens_fn": lambda batch, ids: [11, 12, 13 + int(ids[-1]) % 50]},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("penalty", [1.0, 1.2])
def test_masks_of_transformers(llama, ban, penalty):
    """Never a banned token, and where all plausible ones are banned, plain decoding's choice."""
    plain = copy.deepcopy(llama)
    if "eos_token_id" in ban:  # the likeliest token ends the text, and is banned for three steps
        ban = ban | {"eos_token_id": int(plain(PROMPT[:1]).logits[0, -1].argmax()), "pad_token_id": 0}
    settings = {"attention_mask": torch.ones_like(PROMPT[:1]), "do_sample": False, "max_new_tokens": 3, **ban}
    with dola.attach(llama, dola.DoLaConfig([5], relative_top=1.0)):  # one plausible token: easily banned
        out = llama.generate(PROMPT[:1], repetition_penalty=penalty, **settings)
    expected = plain.generate(PROMPT[:1], repetition_penalty=penalty, **settings)
    if "no_repeat_ngram_size" in ban:
        assert len(set(out[0].tolist())) == out.shape[1]
    if penalty == 1.0:  # with one plausible token DoLa is plain decoding, but for what the penalty does to its scores
        assert torch.equal(out, expected)
    if "prefix_allowed_tokens_fn" in ban:
        for step in range(3, out.shape[1]):
            assert int(out[0, step]) in ban["prefix_allowed_tokens_fn"](0, out[0, :step])


@pytest.mark.parametrize("settings", [{"do_sample": False}, {"do_sample": True, "temperature": 0.7, "top_p": 0.9}], ids=str)
def test_lazy_contrast_changes_no_token_and_saves_rows(settings):
    model = tiny("llama", spread=12.0)  # so peaked that many sets hold a single token
    outputs, saved = [], []
    for lazy in (True, False):
        with dola.attach(model, dola.DoLaConfig("high", lazy=lazy)) as attached:
            torch.manual_seed(1)
            outputs.append(model.generate(PROMPT, max_new_tokens=30, repetition_penalty=1.2, **settings))
            saved.append((attached.rows_saved, attached.rows))
    assert torch.equal(*outputs)
    assert 0 < saved[0][0] < saved[0][1] == 90
    assert saved[1] == (0, 90)


@pytest.mark.parametrize("settings", [{"sequence_bias": {(8,): 3.0}}, {"exponential_decay_length_penalty": (3, 1.05)}], ids=str)
def test_lazy_contrast_is_off_where_a_processor_may_raise_a_token(settings):
    """The raised token competes with the plausible one, whose score only the contrast gives."""
    model = tiny("llama", spread=12.0)
    outputs = []
    for lazy in (True, False):
        with dola.attach(model, dola.DoLaConfig("high", lazy=lazy)) as attached:
            outputs.append(
                model.generate(PROMPT, max_new_tokens=30, do_sample=False, eos_token_id=2, pad_token_id=0, **settings)
            )
            assert attached.rows_saved == 0
    assert torch.equal(*outputs)


def test_lazy_contrast_is_off_when_scores_are_returned(llama):
    with dola.attach(llama) as attached:
        llama(PROMPT)
        llama.generate(PROMPT, max_new_tokens=3, do_sample=False, return_dict_in_generate=True, output_scores=True)
        llama.generate(PROMPT, max_new_tokens=3, do_sample=False, num_beams=2)
        assert attached.rows_saved == 0


@pytest.mark.parametrize("do_sample", [False, True])
def test_output_logits_are_the_models_own_and_scores_the_contrast(llama, do_sample):
    plain = copy.deepcopy(llama)
    with dola.attach(llama):
        out = llama.generate(
            PROMPT, max_new_tokens=6, do_sample=do_sample, return_dict_in_generate=True, output_scores=True, output_logits=True
        )
        for step in range(6):
            so_far = out.sequences[:, : 3 + step]
            torch.testing.assert_close(out.logits[step], plain(so_far).logits[:, -1], atol=1e-3, rtol=1e-3)
            if not do_sample:
                torch.testing.assert_close(out.scores[step], llama(so_far).logits[:, -1], atol=2e-3, rtol=1e-3)


def test_sampled_tokens_are_always_plausible(llama):
    plain = copy.deepcopy(llama)
    torch.manual_seed(0)
    with dola.attach(llama):
        out = llama.generate(PROMPT.repeat(8, 1), do_sample=True, top_k=0, temperature=5.0, max_new_tokens=10)
    inside = plausible(plain(out).logits)
    assert inside[:, 2:-1].gather(-1, out[:, 3:, None]).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"assistant_early_exit": 2}, "assistant_early_exit=2 is not compatible with DoLa"),
        ({"assistant_early_exit": 1}, "assistant_early_exit=1 is not compatible with DoLa"),
        pytest.param(
            {"use_mtp": True},
            "use_mtp=True is not compatible with DoLa",
            marks=pytest.mark.skipif(not hasattr(GenerationConfig(), "use_mtp"), reason="this transformers has no use_mtp"),
        ),
        (
            {"prompt_lookup_num_tokens": 3, "return_dict_in_generate": True, "output_logits": True},
            "output_logits is not compatible with drafted tokens",
        ),
    ],
)
def test_modes_that_would_be_wrong_are_refused_before_they_start(llama, settings, message):
    with dola.attach(llama), pytest.raises(InputError, match=message):
        llama.generate(PROMPT[:1], max_new_tokens=3, **settings)


def test_the_model_as_its_own_assistant_is_refused(llama):
    with dola.attach(llama), pytest.raises(InputError, match="assistant_model is the model"):
        llama.generate(PROMPT[:1], max_new_tokens=3, assistant_model=llama)


def test_output_logits_with_an_assistant_are_refused(llama):
    settings = {"return_dict_in_generate": True, "output_logits": True, "max_new_tokens": 3}
    with dola.attach(llama), pytest.raises(InputError, match="output_logits is not compatible with drafted tokens"):
        llama.generate(PROMPT[:1], assistant_model=tiny("llama", seed=1), **settings)


def test_after_ctrl_c_nothing_is_left(llama):
    """torch runs no further hook after a KeyboardInterrupt."""

    class Interrupt(LogitsProcessor):
        def __call__(self, input_ids, scores):
            raise KeyboardInterrupt

    def interrupt(module, args):
        raise KeyboardInterrupt

    with dola.attach(llama):
        expected = llama.generate(PROMPT, max_new_tokens=3, do_sample=False)
        with pytest.raises(KeyboardInterrupt):
            llama.generate(PROMPT, max_new_tokens=3, logits_processor=LogitsProcessorList([Interrupt()]))
        handle = llama.model.layers[4].register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt):
            llama.generate(PROMPT, max_new_tokens=3)
        handle.remove()
        assert llama.dola._state.call is None
        assert torch.equal(llama.generate(PROMPT, max_new_tokens=3, do_sample=False), expected)
    assert "_get_logits_processor" not in llama.__dict__


def test_prompt_lookup_gives_the_same_tokens(llama):
    prompt = torch.tensor([[5, 17, 200, 33, 5, 17, 200, 33, 5, 17]])
    settings = {"max_new_tokens": 24, "do_sample": False, "repetition_penalty": 1.2, "eos_token_id": 2, "pad_token_id": 0}
    with dola.attach(llama):
        expected = llama.generate(prompt, **settings)
        found = llama.generate(prompt, **settings, prompt_lookup_num_tokens=3, suppress_tokens=[1])
    assert torch.equal(found, expected)


def test_beams_with_a_mask_that_empties_the_set(llama):
    inside = plausible(llama(PROMPT[:1]).logits[:, -1]).any(0).nonzero()[:, 0].tolist()
    plain = copy.deepcopy(llama)
    settings = {"num_beams": 3, "max_new_tokens": 1, "do_sample": False, "suppress_tokens": inside}
    with dola.attach(llama):
        found = llama.generate(PROMPT[:1], **settings)
    assert torch.equal(found, plain.generate(PROMPT[:1], **settings))


def test_generate_is_restored(llama):
    generate, prepare = llama.generate, llama._get_logits_processor
    llama.generate = generate  # as somebody's own wrapper on the instance
    try:
        with dola.attach(llama):
            assert llama.generate is not generate
        assert llama.__dict__["generate"] is generate
        assert llama._get_logits_processor == prepare
    finally:
        del llama.generate


def test_a_wrapper_put_on_since_is_left_alone(llama):
    with dola.attach(llama):
        inner = llama.generate
        mine = lambda *args, **kwargs: inner(*args, **kwargs)  # noqa: E731
        llama.generate = mine
    try:
        assert llama.generate is mine
        assert llama.generate(PROMPT, max_new_tokens=2).shape == (3, 5)
    finally:
        del llama.generate


def test_a_processor_on_the_instance_is_used_and_put_back(llama):
    own = llama._get_logits_processor
    llama._get_logits_processor = lambda *args, **kwargs: own(*args, **kwargs)
    mine = llama._get_logits_processor
    try:
        with dola.attach(llama):
            llama.generate(PROMPT, max_new_tokens=2, suppress_tokens=[3])
        assert llama._get_logits_processor is mine
    finally:
        del llama._get_logits_processor


@pytest.mark.parametrize(
    ("arguments", "said", "hint"),
    [
        ({"layers": "high"}, "layers='high' is not an argument of generate", "dola_layers='high'"),
        ({"relative_top": 0.2}, "relative_top=0.2 is not an argument of generate", "dola_relative_top=0.2"),
        ({"method": "sled"}, "method='sled' is not an argument of generate", "dola_method='sled'"),
        ({"rate": 2.0}, "rate=2.0 is not an argument of generate", "dola_rate=2.0"),
        ({"inputs": "The capital"}, "was given a text, 'The capital'", "tokenizer("),
        ({"input_ids": ["The", "capital"]}, "was given a text, ", "tokenizer("),
    ],
)
def test_arguments_that_transformers_would_not_understand(llama, arguments, said, hint):
    given = {"input_ids": torch.tensor([[1, 2, 3]])} | arguments if "inputs" not in arguments else arguments
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        dola.generate(llama, **given, max_new_tokens=1)
    assert hint in caught.value.hint


def test_a_text_by_position_is_refused_too(llama):
    with pytest.raises(InputError, match="expected token ids"):
        dola.generate(llama, "The capital")
