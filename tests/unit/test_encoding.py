"""Text as token ids: nothing appended, nothing without an embedding, masks from lengths. transformers alone is the judge."""

import pytest
import torch
from families import VOCAB, tiny
from odd_tokenizers import ADDS, KEEPS, Letters, lossy_tokenizer, odd_tokenizer
from torch import nn
from words import word_tokenizer

import dola
from dola.errors import InputError
from dola.text.encoding import Encoder, embedding_rows

TEXTS = ["Hi there", "", "</s>", "<s>Hi</s>", "</s></s>", "a</s> b", "<s>", "<s></s>", " ", "日本", "<user>Hi<answer>"]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("adds", ADDS)
def test_what_the_tokenizer_appends_is_left_out_and_what_the_text_has_stays(adds, text):
    tokenizer = odd_tokenizer(adds)
    bare = tokenizer(text, add_special_tokens=False)["input_ids"]
    expected = [tokenizer.bos_token_id] * ("<s>" in ADDS[adds]) + bare
    assert Encoder(tokenizer).text(text) == expected
    assert Encoder(tokenizer).bare(text) == bare
    assert Encoder(tokenizer).without_appended(text, bare) == bare  # what was made without them


def test_the_switch_of_transformers_itself():
    tokenizer = odd_tokenizer("start")
    plain = Encoder(tokenizer).text("Hi")
    tokenizer.add_eos_token = True
    tokenizer.update_post_processor()
    assert tokenizer("Hi")["input_ids"][-1] == tokenizer.eos_token_id
    assert Encoder(tokenizer).text("Hi")[-1] == plain[-1]


def test_bert_like_ends():
    tokenizer = word_tokenizer()
    from tokenizers.processors import BertProcessing

    tokenizer.backend_tokenizer.post_processor = BertProcessing(("</s>", 2), ("<s>", 1))
    assert Encoder(tokenizer).text("The capital") == [1, 4, 5]
    assert Encoder(tokenizer).around == ([1], [2])


def test_a_slow_tokenizer():
    tokenizer = Letters()
    assert tokenizer("abc")["input_ids"] == [3, 4, 5, 2]
    assert Encoder(tokenizer).text("abc") == [3, 4, 5]
    with pytest.raises(InputError, match="does not know a part of the text"):
        Encoder(tokenizer).text("a1b")


def test_a_tokenizer_that_appends_only_what_is_missing():
    """Like T5's slow tokenizer: an end token that the text already has is not added again."""

    class Once(Letters):
        def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
            return token_ids_0 if token_ids_0[-1:] == [2] else [*token_ids_0, 2]

    assert Encoder(Once()).text("ab") == [3, 4]
    assert Encoder(Once()).text("ab</s>") == [3, 4, 2]


def test_a_truncated_text_also_loses_the_appended_end_token():
    tokenizer = odd_tokenizer("both")
    cut = tokenizer("Hi there", truncation=True, max_length=4)["input_ids"]
    assert cut[-1] == tokenizer.eos_token_id
    assert Encoder(tokenizer).without_appended("Hi there", cut) == cut[:-1]


def test_a_tokenizer_whose_vocabulary_lacks_the_probe():
    tokenizer = lossy_tokenizer()
    assert Encoder(tokenizer).text("1 2") == [1, 2]
    tokenizer = lossy_tokenizer()
    tokenizer.backend_tokenizer.normalizer = None
    assert Encoder(tokenizer).around == ([], [])


@pytest.mark.parametrize("text", ["Hi<extra1>", "<extra1>"])
def test_a_token_without_an_embedding_is_named(text):
    tokenizer, model = odd_tokenizer(extra=2), tiny("llama")
    with pytest.raises(InputError) as refused:
        Encoder.of(model, tokenizer).text(text)
    assert refused.value.message == (
        "The text has the token 402 ('<extra1>'), which the model does not know; the model has embeddings for 401 tokens."
    )
    model.resize_token_embeddings(len(tokenizer))
    assert Encoder.of(model, tokenizer).text(text)[-1] == 402


def test_a_template_whose_token_has_no_embedding():
    tokenizer = odd_tokenizer(extra=1, template=f"<extra0>{KEEPS['plain']}")
    with pytest.raises(InputError, match=r"token 401 \('<extra0>'\)") as refused:
        Encoder.of(tiny("llama"), tokenizer).prompt("Hi", chat=True, hint="--no-chat")
    assert "--no-chat" in refused.value.hint
    assert Encoder.of(tiny("llama"), tokenizer).prompt("Hi", chat=False)


@pytest.mark.parametrize(
    ("ids", "what"), [([5, 401], "token 401,"), ([-1], "token -1,"), ([5, 2.5], "2.5, not a whole"), ([None], "part")]
)
def test_given_tokens_are_checked_as_well(ids, what):
    with pytest.raises(InputError, match=what):
        Encoder.of(tiny("llama"), None).checked(ids)
    assert Encoder(None).checked(torch.tensor([3, 10**6])) == [3, 10**6]


def test_a_text_without_a_tokenizer():
    with pytest.raises(InputError, match="no tokenizer was given"):
        Encoder(None).text("Hi")


def test_a_tokenizer_that_fails():
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.model.unk_token = "<nowhere>"
    with pytest.raises(InputError, match="The tokenizer fails on 'Hi"):
        Encoder(tokenizer).text("Hi")


@pytest.mark.parametrize("pad", ["own", "none", "beyond"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("mask", [True, False])
def test_a_batch_is_padded_on_the_left_with_a_mask_from_lengths(pad, side, mask):
    tokenizer = odd_tokenizer("start", pad=pad, side=side, mask=mask)
    encoder = Encoder.of(tiny("llama"), tokenizer)
    rows = [encoder.text(text) for text in ("Hi", "<pad>Hi<pad>", "Hello there")]
    inputs = encoder.padded(rows)
    longest = max(map(len, rows))
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (3, longest)
    for row, ids, of_mask in zip(rows, inputs["input_ids"].tolist(), inputs["attention_mask"].tolist(), strict=True):
        assert of_mask == [0] * (longest - len(row)) + [1] * len(row)
        assert ids[longest - len(row) :] == row
        assert set(ids[: longest - len(row)]) <= {0 if pad == "own" else row[0]}
    assert encoder.padded(rows, side="right")["input_ids"][0, : len(rows[0])].tolist() == rows[0]
    assert encoder.padded(rows, side="right")["attention_mask"][0].tolist() == [1] * len(rows[0]) + [0] * (
        longest - len(rows[0])
    )
    assert 0 <= encoder.pad_token_id < VOCAB


def test_a_row_without_tokens_in_a_batch_is_refused():
    with pytest.raises(InputError, match="no tokens"):
        Encoder(odd_tokenizer()).padded([[3], []])


@pytest.mark.parametrize("pad", ["none", "beyond"])
def test_rows_of_a_batch_decode_as_alone(pad):
    """With a repetition penalty, which counts the padding of a row as its tokens."""
    model, tokenizer = tiny("llama"), odd_tokenizer("both", pad=pad, side="right", mask=False)
    encoder = Encoder.of(model, tokenizer)
    rows = [encoder.text(text) for text in ("Hi", "Hello there, old friend")]
    settings = {"max_new_tokens": 6, "repetition_penalty": 1.5, "pad_token_id": encoder.pad_token_id, "do_sample": False}
    together = dola.generate(model, **encoder.padded(rows), **settings, dola_layers="high")[:, max(map(len, rows)) :]
    for row, found in zip(rows, together.tolist(), strict=True):
        ids = torch.tensor([row])
        alone = dola.generate(model, ids, attention_mask=torch.ones_like(ids), **settings, dola_layers="high")
        assert found == alone[0, len(row) :].tolist()


@pytest.mark.parametrize("whose", ["the tokenizer's", "one of the model's"])
def test_a_padding_token_that_ends_texts_does_not_pad(whose):
    """As in Llama (the padding token is the end token) and in Qwen (it is one of two end tokens).

    The first releases of transformers 5 take a repetition penalty from padding as well: a row would not end as it does alone.
    """
    model, tokenizer = tiny("llama"), odd_tokenizer("start")
    if whose == "the tokenizer's":
        tokenizer.eos_token = tokenizer.pad_token
    else:
        model.generation_config.eos_token_id = [2, tokenizer.pad_token_id]
    ids = Encoder.of(model, tokenizer).padded([[5, 6], [7, 8, 9, 10]])["input_ids"].tolist()
    assert ids == [[5, 5, 5, 6], [7, 8, 9, 10]]


class Shapeless(nn.Module):
    def get_input_embeddings(self):
        raise NotImplementedError


def test_how_many_tokens_a_model_knows():
    assert embedding_rows(tiny("gpt2")) == VOCAB
    assert embedding_rows(Shapeless()) is None
    assert embedding_rows(nn.Linear(2, 2)) is None
    assert embedding_rows(None) is None
    model = tiny("llama")
    model.model.embed_tokens = nn.Linear(7, 3)  # not an Embedding, but with a table
    assert embedding_rows(model) == 3
