"""Kinds of architectures that the 23 families are not: a part of what `make models` runs, and its page; images as input."""

import dataclasses
import re

import any_model
import pytest
import torch
import transformers
import vision_models
from families import spread_logits
from model_matrix import CHECKS, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, PAGE, WRONG, Outcome, Trial, judge, page, run
from packaging.version import Version
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import dola
from dola.errors import InputError, ModelError
from dola.model.anatomy import Anatomy, Scale

KINDS = {
    "gpt_bigcode": "multi-query attention",
    "openai-gpt": "blocks that return lists, no final norm",
    "bart": "a decoder without its encoder, a norm of the embeddings",
    "bigbird_pegasus": "a final norm that is named like one of the embeddings",
    "lfm2": "convolutions and attention in turns",
    "electra": "a projection in front of the head",
    "modernbert-decoder": "a prediction head beside the output embedding",
    "roberta-prelayernorm": "a final norm outside the module with the blocks",
    "git": "an image encoder of the same depth",
    "deepseek_v3": "latent attention, mixture of experts",
    "gpt_oss": "attention sinks, sliding windows",
    "gemma3n_text": "several residual streams, AltUp",
    "deepseek_v4": "several residual streams, hyper-connections",
    "qwen4_exp_text": "several residual streams side by side",
    "inkling_text": "logits divided in front of the head",
    "mamba": "state space",
    "jamba": "state space and attention in turns",
    "rwkv": "recurrent",
    "recurrent_gemma": "recurrent, soft-capped",
    "xlstm": "recurrent, soft-capped under another name",
}

pytestmark = pytest.mark.filterwarnings("ignore")  # of transformers, about untrained tiny configs


@pytest.mark.parametrize("model_type", KINDS)
def test_a_kind(model_type):
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type}")
    model = any_model.build(any_model.config_of(model_type))
    spread_logits(model, {"input_ids": torch.tensor([[5, 17, 200, 33]])})
    checks, note = judge(Trial(model))
    assert list(checks) == list(CHECKS)
    assert WRONG not in checks.values(), note


def test_the_checks_notice_wrong_parts(monkeypatch):
    found = Anatomy.of
    model = any_model.build(any_model.config_of("llama"))
    spread_logits(model, {"input_ids": torch.tensor([[5, 17, 200, 33]])})
    monkeypatch.setattr(Anatomy, "of", lambda lm: dataclasses.replace(found(lm), logit_transform=Scale(1.01)))
    checks, note = judge(Trial(model))
    assert checks["readout"] == WRONG
    assert "readout differs from the logits by 1.0e-02" in note


def test_a_crash_and_a_hang_do_not_stop_the_run():
    def work(model_type):
        if model_type == "crash":
            raise SystemExit(3)
        while model_type == "hang":
            pass
        return Outcome(model_type, "works")

    outcomes = run(["crash", "hang", "fine"], work, seconds=1)
    assert [outcome.status for outcome in outcomes] == ["not built", "not built", "works"]
    assert ["exit code 3" in outcomes[0].note, "longer than 1 s" in outcomes[1].note] == [True, True]


def test_the_page_has_every_architecture_and_no_wrong_one():
    text = PAGE.read_text()
    made_with = re.search(r"transformers (\d[\w.]*\d) ", text)[1]
    if Version(transformers.__version__) > Version(made_with):
        pytest.skip(f"docs/supported-models.md was made with transformers {made_with}, and {transformers.__version__} is newer")
    rows = {line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")}
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) <= rows, "run: make models"
    assert WRONG not in text


def test_the_page_says_what_was_found():
    checks = dict.fromkeys(CHECKS, "yes")
    outcomes = [
        Outcome("a", "works", "A", found="no final norm", checks=checks),
        Outcome("b", "refused", note="its words"),
        Outcome("c", "not built", note="its error"),
    ]
    text = page(outcomes)
    assert "(3 of them)" in text
    assert "1 work, 0 are wrong, 1 are refused with the reason, and for 1 no model" in text
    assert "| a | A | yes | yes | yes | yes | yes | no final norm |" in text
    assert "| b | its words |" in text
    assert "| c | its error |" in text


@pytest.mark.parametrize("model_type", vision_models.CONFIGS)
def test_a_vision_language_model_decodes_images_with_dola(model_type):
    model = vision_models.build(model_type)
    inputs, other = vision_models.prompt(model_type), vision_models.prompt(model_type, seed=1)
    trial = Trial(model, inputs)
    assert {trial.readout(), trial.removed()} == {"yes"}
    assert trial.contrast().startswith("yes")
    settings = {"max_new_tokens": 6, "do_sample": False, "repetition_penalty": 1.2}
    with torch.no_grad(), dola.attach(model, "high"):
        assert not torch.equal(model(**inputs).logits, model(**other).logits)  # the image is read
        attached = model.generate(**{**inputs, "use_cache": True}, **settings)
    called = dola.generate(model, **{**inputs, "use_cache": True}, dola_layers="high", **settings)
    assert attached.tolist() == called.tolist()
    assert attached.tolist() == _stepwise(model, inputs, attached.shape[1] - inputs["input_ids"].shape[1])


@pytest.mark.parametrize("model_type", vision_models.BY_A_PART)
def test_a_model_that_generates_with_a_part_of_it_decodes_as_that_part(model_type):
    model, inputs = vision_models.build(model_type), vision_models.prompt(model_type)
    part = getattr(model, vision_models.PARTS[model_type])
    settings = {"max_new_tokens": 6, "do_sample": False, "repetition_penalty": 1.2}
    plain, logits = model.generate(**inputs, **settings).tolist(), model(**inputs).logits
    banned = [[token] for token in set(plain[0][-6:])]
    with dola.attach(part, "high"):
        right = [model.generate(**inputs, **settings, **more).tolist() for more in ({}, {"bad_words_ids": banned})]
        scores = model(**inputs).logits
    with dola.attach(model, "high") as attached:
        assert model.dola is part.dola is attached
        assert [model.generate(**inputs, **settings, **more).tolist() for more in ({}, {"bad_words_ids": banned})] == right
        assert torch.equal(model(**inputs).logits, scores)
        assert not torch.equal(model(**vision_models.prompt(model_type, seed=1)).logits, scores)  # the image is read
        with pytest.raises(InputError, match="labels= was given"):
            model(**inputs, labels=inputs["input_ids"])
    assert not torch.equal(scores, logits)
    assert dola.generate(model, **inputs, **settings).tolist() == right[0]
    assert model.generate(**inputs, **settings).tolist() == plain
    assert torch.equal(model(**inputs).logits, logits)
    assert not hasattr(model, "dola")


@pytest.mark.parametrize("model_type", ["blip-2", "instructblip"])
def test_an_encoder_decoder_inside_stays_refused(model_type):
    text = {"model_type": "t5", "vocab_size": 401, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}
    config = CONFIG_MAPPING[model_type](**{**vision_models.QUERIES, "text_config": text})
    model = any_model.build(config, auto=AutoModelForImageTextToText)
    for way in (dola.attach, dola.generate):
        with pytest.raises(ModelError, match="encoder-decoder"):
            way(model)


def test_a_captioner_without_a_head_names_its_decoder():
    model = any_model.build(any_model.config_of("blip"), auto=AutoModelForImageTextToText)
    with pytest.raises(ModelError, match=r"no LM head(.|\n)*use model\.text_decoder, the BlipTextLMHeadModel inside"):
        dola.attach(model)
    image = {"pixel_values": torch.randn(1, 3, 16, 16)}
    plain = model.generate(**image, max_new_tokens=6).tolist()
    with dola.attach(model.text_decoder):
        assert model.generate(**image, max_new_tokens=6).tolist() != plain
    assert model.generate(**image, max_new_tokens=6).tolist() == plain


def _stepwise(model, inputs, count):
    """The same tokens by forwards over the whole sequence, without a cache."""
    ids, extra = inputs["input_ids"], {k: v for k, v in inputs.items() if k in ("pixel_values", "image_grid_thw")}
    penalty = transformers.RepetitionPenaltyLogitsProcessor(1.2)
    for _ in range(count):
        types = (ids == vision_models.IMAGE).long()
        named = [name for name in ("token_type_ids", "mm_token_type_ids") if name in inputs]
        with torch.no_grad(), dola.attach(model, "high"):
            scores = model(ids, attention_mask=torch.ones_like(ids), **extra, **dict.fromkeys(named, types)).logits[:, -1]
        ids = torch.cat([ids, penalty(ids, scores).argmax(-1, keepdim=True)], dim=1)
    return ids.tolist()
