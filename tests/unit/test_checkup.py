"""check_up: its findings for working models, and that it detects what is broken in others."""

import dataclasses
import importlib
import math

import pytest
import torch
from families import FAMILIES, tiny
from odd_tokenizers import KEEPS, LOSES, PARTS, odd_tokenizer
from tokenizers import normalizers
from transformers import T5Config, T5ForConditionalGeneration
from words import word_tokenizer

from dola import attach
from dola.contrast import contrast
from dola.doctor.checks import contrast_error
from dola.doctor.checkup import advice, check_up
from dola.errors import LayersError
from dola.methods.config import DoLaConfig
from dola.model.anatomy import Anatomy

NAMES = [
    "parts",
    "layers",
    "tokenizer",
    "without DoLa",
    "readout",
    "chat template",
    "with DoLa",
    "contrast",
    "after DoLa",
    "speed",
]
TOKENIZER = word_tokenizer()
Session = importlib.import_module("dola.decoding.attach").Session


def statuses(checkup):
    """Status by check, without the check of the generation config."""
    return {check.name: check.status for check in checkup.checks if check.name != "generation config"}


def text(checkup, name):
    return next(check.text for check in checkup.checks if check.name == name)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_is_healthy(name):
    model = tiny(name)
    checkup = check_up(model, TOKENIZER)
    assert [check.name for check in checkup.checks] == [*NAMES, "generation config"]
    assert set(statuses(checkup).values()) == {"ok"}, checkup.checks
    assert checkup.healthy
    assert f"at {FAMILIES[name].final_norm}" in checkup.parts.final_norm
    assert checkup.layers == (3, 5)
    assert not hasattr(model, "dola")


def test_what_is_found_in_a_model():
    checkup = check_up(tiny("gemma2"), TOKENIZER, "low")
    parts = checkup.parts
    assert (parts.num_layers, parts.tied) == (6, True)
    assert parts.blocks == "Gemma2DecoderLayer at model.layers"
    assert parts.head == "Linear at lm_head"
    assert parts.logit_transform == "SoftCap(cap=15.0)"
    assert parts.projection == "none"
    assert [(bucket.name, bucket.layers) for bucket in checkup.buckets] == [
        ("low", (2,)),
        ("high", (3, 5)),
        ("all", (0, 1, 2, 3, 4, 5)),
    ]
    assert checkup.layers == (2,)
    assert (checkup.class_name, checkup.dtype, checkup.devices) == ("Gemma2ForCausalLM", "float32", ("cpu",))
    assert checkup.parameters == sum(parameter.numel() for parameter in tiny("gemma2").parameters())
    assert (checkup.timings.tokens, checkup.timings.runs) == (8, 3)
    assert checkup.timings.ratio == checkup.timings.dola / checkup.timings.plain > 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_dtypes(dtype):
    checkup = check_up(tiny("llama", dtype=dtype), TOKENIZER)
    assert checkup.healthy, checkup.checks
    assert any("rounding of bfloat16" in sentence for sentence in advice(checkup)) == (dtype == torch.bfloat16)


def test_a_wrong_final_norm_is_found_and_named(monkeypatch):
    of = Anatomy.of
    monkeypatch.setattr(Anatomy, "of", lambda model: dataclasses.replace(of(model), final_norm=None))
    checkup = check_up(tiny("llama"), TOKENIZER)
    assert statuses(checkup) == dict.fromkeys(NAMES[:4], "ok") | {"readout": "failed"} | dict.fromkeys(NAMES[5:], "not run")
    assert "final norm: none" in text(checkup, "readout")
    assert text(checkup, "speed") == "because the check of 'readout' failed"
    assert not checkup.healthy
    assert "Is the final norm right (none)?" in advice(checkup)[0]


def test_a_model_without_the_right_parts():
    model = T5ForConditionalGeneration(T5Config(vocab_size=401, d_model=32, d_ff=64, num_layers=2, num_heads=4, d_kv=8))
    checkup = check_up(model, TOKENIZER)
    assert statuses(checkup) == {"parts": "failed"} | dict.fromkeys(NAMES[1:], "not run")
    assert text(checkup, "parts").startswith("ModelError: T5ForConditionalGeneration is an encoder-decoder")
    assert (checkup.parts, checkup.buckets, checkup.layers, checkup.timings) == (None, (), (), None)
    assert advice(checkup)  # and does not stumble over what is missing


def test_a_tokenizer_of_another_model():
    model = tiny("llama", vocab_size=60)
    checkup = check_up(model, word_tokenizer(401))
    assert statuses(checkup)["tokenizer"] == "warning"  # it knows more than the model, but the prompt fits
    model.resize_token_embeddings(7)
    checkup = check_up(model, word_tokenizer(401))
    assert statuses(checkup)["tokenizer"] == "failed"
    assert text(checkup, "tokenizer") == (
        "InputError: The text has the token 7 ('Washington'), which the model does not know; "
        "the model has embeddings for 7 tokens."
    )
    assert "Tokenizer and model do not match" in advice(checkup)[0]


def test_a_tokenizer_that_gives_nothing(monkeypatch):
    monkeypatch.setattr("dola.doctor.checks.PROMPT", "")
    assert text(check_up(tiny("llama"), TOKENIZER), "tokenizer") == "'' gives no tokens"


def test_weights_that_give_nan():
    model = tiny("llama", dtype=torch.float16)
    model.model.norm.weight.fill_(torch.nan)
    checkup = check_up(model, TOKENIZER)
    assert text(checkup, "without DoLa") == "the model's logits are NaN, infinite or all -inf in float16"
    assert any("--dtype bfloat16" in sentence for sentence in advice(checkup))


def test_a_check_that_raises_has_failed(monkeypatch):
    model = tiny("llama")
    monkeypatch.setattr(model, "generate", lambda **_: 1 / 0)
    assert text(check_up(model, TOKENIZER), "without DoLa") == "ZeroDivisionError: division by zero"


def test_attach_and_generate_that_disagree_fail(monkeypatch):
    monkeypatch.setattr("dola.doctor.checks.generate", lambda model, dola_layers, **inputs: model.generate(**inputs) * 0)
    checkup = check_up(tiny("llama"), TOKENIZER)
    assert statuses(checkup)["with DoLa"] == "failed"
    assert "dola.generate '<pad> <pad>'" in text(checkup, "with DoLa")
    assert any("please report it" in sentence for sentence in advice(checkup))


def test_scores_that_differ_from_the_contrast_fail(monkeypatch):
    """Hooks that return plain logits: attach and generate can agree and still both be wrong."""
    monkeypatch.setattr(Session, "_contrast", lambda self, call, logits: logits)
    checkup = check_up(tiny("llama"), TOKENIZER)
    assert (statuses(checkup)["with DoLa"], statuses(checkup)["contrast"]) == ("ok", "failed")


def test_hooks_left_on_the_model_are_reported(monkeypatch):
    monkeypatch.setattr("dola.decoding.changes._unhook", lambda module, hook, keys: None)
    checkup = check_up(tiny("llama"), TOKENIZER)
    assert text(checkup, "after DoLa") == "DoLa left hooks on the model"


def test_a_model_with_dola_on_it_already():
    model = tiny("llama")
    with attach(model, "high"):
        checkup = check_up(model, TOKENIZER)
    assert text(checkup, "parts") == "DoLa is attached to this model already: call model.dola.remove() first"


def test_a_model_that_is_not_deterministic(monkeypatch):
    model = tiny("llama")
    checkup_decode = "dola.doctor.checks.Examination._recompute"

    def disturb(self):
        model.lm_head.weight.mul_(change)
        return "ok", ""

    monkeypatch.setattr(checkup_decode, disturb)
    change = 1.001
    assert statuses(check_up(model, TOKENIZER))["after DoLa"] == "warning"
    change = -1.0
    checkup = check_up(model, TOKENIZER)
    assert statuses(checkup)["after DoLa"] == "failed"
    assert "without DoLa the model now generates" in text(checkup, "after DoLa")


def test_a_slow_model_is_timed_once(monkeypatch):
    monkeypatch.setattr("dola.doctor.checks.PATIENCE", 0.0)
    assert check_up(tiny("llama"), TOKENIZER).timings.runs == 1


def test_a_model_without_hidden_states(monkeypatch):
    forward = "dola.doctor.checks.Examination._forward"
    original = check_up.__globals__["Examination"]._forward
    monkeypatch.setattr(forward, lambda self: (*original(self)[:2], None))
    checkup = check_up(tiny("llama"), TOKENIZER)
    assert statuses(checkup)["contrast"] == "warning"
    assert checkup.healthy


def test_layers_that_the_model_does_not_have():
    with pytest.raises(LayersError, match="layer 24 in layers="):
        check_up(tiny("llama"), TOKENIZER, [24])


def test_an_empty_bucket():
    checkup = check_up(tiny("llama", num_hidden_layers=3, tie_word_embeddings=True), TOKENIZER)
    assert checkup.buckets[0].layers is None
    assert 'layers="low" holds no layer in a model of 3 layers' in checkup.buckets[0].problem
    assert any('layers="low" cannot be used' in sentence for sentence in advice(checkup))


def test_advice_depends_on_what_was_found(monkeypatch):
    checkup = check_up(tiny("llama"), TOKENIZER)
    assert [sentence[:30] for sentence in advice(checkup)] == ["This model is small: 0 million"]
    assert advice(dataclasses.replace(checkup, parameters=8 * 10**9)) == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert advice(dataclasses.replace(checkup, parameters=8 * 10**9)) == [
        "This machine has a GPU, but the model is on the CPU: --device cuda."
    ]


def test_contrast_error_ignores_only_rounding():
    torch.manual_seed(0)
    mature, premature = torch.randn(50).double() * 3, torch.randn(4, 50).double() * 3
    config = DoLaConfig("all")
    scores = contrast(mature, premature)
    assert contrast_error(scores, mature, premature, config, 1e-6) == 0
    scores[mature.argmax()] += 0.5
    assert contrast_error(scores, mature, premature, config, 1e-6) == pytest.approx(0.5)
    assert contrast_error(mature, mature, premature, config, 1e-6) > 0.5
    second = contrast(mature, premature[[1]])
    assert min(contrast_error(second, mature, premature, config, slack) for slack in (1e-6, 10.0)) == 0  # any layer may win


@pytest.mark.parametrize("scores", ["contrast", "distribution"])
@pytest.mark.parametrize("strength", [0.25, 1.0, 3.0])
def test_contrast_error_handles_strengths_and_distributions(scores, strength):
    torch.manual_seed(0)
    mature, premature = torch.randn(50).double(), torch.randn(4, 50).double() * 3
    config = DoLaConfig("all", strength=strength, scores=scores)
    found = contrast(mature, premature, strength=strength, scores=scores)
    assert contrast_error(found, mature, premature, config, 1e-6) == 0
    other = dataclasses.replace(config, strength=strength / 2)
    assert contrast_error(found, mature, premature, other, 1e-6) > 1e-2


def test_a_token_at_the_edge_of_the_set_may_count_in_a_distribution_or_not():
    mature, premature = torch.tensor([0.0, -2.0, -3.0]).double(), torch.tensor([[0.0, -9.0, -1.0]]).double()
    top = math.exp(-2)  # where rounding decides about the second token
    config = DoLaConfig("all", relative_top=top, scores="distribution")
    for edge in (top * 1.001, top * 0.999):
        scores = contrast(mature, premature, relative_top=edge, scores="distribution")
        assert contrast_error(scores, mature, premature, config, 0.01) < 1e-12
        assert contrast_error(scores + torch.tensor([0.5, 0, 0]), mature, premature, config, 0.01) > 0.4


def test_contrast_error_without_a_plausibility_constraint():
    mature, premature = torch.tensor([0.0, 1, 2]).double(), torch.tensor([[2.0, 1, 0]]).double()
    config = DoLaConfig("all", relative_top=0.0)
    assert contrast_error(contrast(mature, premature, relative_top=0.0), mature, premature, config, 1e-6) == 0


@pytest.mark.parametrize(
    ("oddities", "words"),
    [
        ({"adds": "both"}, "it appends 2 ('</s>') to every text: dola removes that"),
        ({"adds": "two at the end"}, "it appends 2 ('</s>') 2 ('</s>') to every text"),
        ({"mask": False}, "it does not return an attention mask: dola makes one"),
        ({"extra": 2}, "the model has no embedding for token 401 ('<extra0>') and 1 more: a text that contains one is refused"),
        ({"pad": "beyond"}, "no embedding for token 401 ('<padding>'), the padding token '<padding>' among them: a text"),
    ],
)
def test_what_is_odd_about_a_tokenizer(oddities, words):
    checkup = check_up(tiny("llama"), odd_tokenizer(**oddities))
    assert statuses(checkup)["tokenizer"] == "warning"
    assert words in text(checkup, "tokenizer")
    assert checkup.healthy


def test_a_tokenizer_that_loses_words():
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("State", "word9")
    checkup = check_up(tiny("llama"), tokenizer)
    assert statuses(checkup)["tokenizer"] == "warning"
    lost = "it loses words: 'The capital of Washington State is' comes back as 'The capital of Washington"
    assert lost in text(checkup, "tokenizer")


def test_a_vocabulary_of_another_model():
    model = tiny("llama", eos_token_id=77)
    assert "end token 77 is 'word77' here, not a special token" in text(check_up(model, TOKENIZER), "tokenizer")


@pytest.mark.parametrize(
    ("template", "status", "words"),
    [
        (None, "ok", "none: prompts are continued"),
        (KEEPS["plain"], "ok", "a short question takes "),
        (KEEPS["plain"], "ok", "system messages are supported"),
        (KEEPS["alternates"], "ok", "system messages are not supported"),
        (PARTS["parts"], "ok", "passed as a list of parts (the template drops a plain string)"),
        (LOSES["another key"], "failed", "drops the words of the user message: 'Who wrote Hamlet?' gives the prompt '<user>"),
        (LOSES["raises"], "failed", "The model's chat template fails: no."),
        (f"<extra0>{KEEPS['plain']}", "failed", "The text has the token 401 ('<extra0>')"),
    ],
)
def test_chat_templates(template, status, words):
    checkup = check_up(tiny("llama"), odd_tokenizer(extra=1 if template and "extra" in template else 0, template=template))
    assert statuses(checkup)["chat template"] == status
    assert words in text(checkup, "chat template")
    assert checkup.healthy == (status == "ok")
    assert any("use --no-chat" in sentence for sentence in advice(checkup)) == (status == "failed")


def test_chats_by_code_in_place_of_a_template():
    class Coded(type(TOKENIZER)):
        def apply_chat_template(self, messages, **_): ...

    made = Coded(tokenizer_object=TOKENIZER.backend_tokenizer, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")
    assert "renders chats with its own code: used with --chat" in text(check_up(tiny("llama"), made), "chat template")
