"""Any value in any field of a model's own generation config: plain transformers' tokens, or it is said, or refused by name.

The judge is `model.generate` of transformers with the whole generation config and the arguments of the command. Where the
command's tokens are others, or the judge fails, a line on stderr or the error must name the field. Nothing here reads the table
of fields, but for the names.
"""

import copy
import json
import logging
import warnings

import pytest
import torch
from command import tokenizer
from families import tiny
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

import dola
from dola.cli.decoding import Decoding, decode
from dola.decoding import as_asked as generation_call
from dola.errors import DolaError
from dola.loading.generation_file import NAME, checked_generation_config
from dola.model.generation_fields import METADATA

ODD = [None, 0, 1, 3, -1, 2.5, 1e9, float("nan"), True, False, "", "abc", "0.7", [], [2], [5000], [[2, 3]], {}, {"a": 1}]
PROPER = {
    "assistant_early_exit": 2, "bad_words_ids": [[20], [30, 31]], "begin_suppress_tokens": [20, 30],
    "cache_config": {"nbits": 4}, "cache_implementation": "static", "compile_config": {"backend": "inductor"},
    "constraints": [{"ids": [4]}], "early_stopping": "never", "encoder_repetition_penalty": 0.3,
    "eos_token_id": [2, 320], "exponential_decay_length_penalty": [1, 9.0], "force_words_ids": [[9]],
    "forced_bos_token_id": 9, "forced_eos_token_id": 9, "guidance_scale": 1.7, "length_penalty": 0.2,
    "max_new_tokens": 2, "max_time": 1e-9, "min_p": 0.9, "no_repeat_ngram_size": 1,
    "num_assistant_tokens_schedule": "heuristic", "num_beams": 4, "num_return_sequences": 2, "penalty_alpha": 0.6,
    "prefill_chunk_size": 2, "prompt_lookup_num_tokens": 3, "repetition_penalty": 3.0,
    "sequence_bias": [[[7], 90.0], [[20, 30], -9.0]], "speculation_type": "dflash", "stop_strings": ["e", "rn"],
    "suppress_tokens": [20, 30], "temperature": 4.0, "top_h": 0.1, "typical_p": 0.1,
    "watermarking_config": {"bias": 9.0, "greenlist_ratio": 0.5},
}  # fmt: skip
FIELDS = sorted(name for name in GenerationConfig().__dict__ if name not in METADATA)
DECODING = [
    name for name in FIELDS if name != "dola_layers"
]  # that is the affair of --layers: test_generation_fields and test_own_config
GREEDY = Decoding(3, 1.2)
SAMPLED = Decoding(3, 1.0, sample=True, temperature=2.0, seed=5)
HIGH = dola.DoLaConfig("high")
FAILED = "failed"


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def made():
    return tokenizer()


@pytest.fixture(scope="module")
def inputs(made):
    return made(["Hi there, there"], return_tensors="pt")


@pytest.fixture
def folder(tmp_path):
    return tmp_path


class Lines(logging.Handler):
    """What is logged, as the command's stderr has it. caplog does not go with hypothesis."""

    def __init__(self):
        super().__init__()
        self.text = ""

    def emit(self, record):
        self.text += record.getMessage() + "\n"


def command(model, made, inputs, config, decoding):
    """The command's tokens with a generation config, and its stderr; FAILED and the error."""
    lines = Lines()
    generation_call._said.clear()  # each run of the command is a process of its own
    logging.getLogger("dola").addHandler(lines)
    try:
        (model.generation_config,) = checked(config)
        (completion,) = decode(model, made, inputs, decoding).completions
    except DolaError as error:
        return FAILED, f"{error.message} {error.hint}"
    finally:
        logging.getLogger("dola").removeHandler(lines)
    return completion.token_ids, lines.text


def checked(path):
    """What `dola.load` makes of the file: the generation config of the loaded model."""
    repaired = checked_generation_config(str(path), {})
    return [repaired.get("generation_config") or GenerationConfig(**json.loads((path / NAME).read_text()))]


def judge(model, made, inputs, path, decoding):
    """The tokens of plain transformers, or FAILED. On a copy: a call with early exits that fails leaves a changed model."""
    model = copy.deepcopy(model)
    try:
        model.generation_config = GenerationConfig(**json.loads((path / NAME).read_text()))
        torch.manual_seed(decoding.seed or 0)
        call = {**decoding.arguments(), "pad_token_id": 0, "tokenizer": made}
        output = model.generate(**inputs, **call)
        output = getattr(output, "sequences", output)
        return output[0, inputs["input_ids"].shape[1] :].tolist() if len(output) == 1 else FAILED
    except Exception:
        return FAILED


def assert_right_or_said(model, made, inputs, path, wishes, decoding):
    (path / NAME).write_text(json.dumps({"pad_token_id": 0, **wishes}))
    model.generation_config = GenerationConfig()
    own = model.generation_config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            expected = judge(model, made, inputs, path, decoding)
            tokens, said = command(model, made, inputs, path, decoding)
            if tokens == FAILED or tokens != expected:
                assert any(name in said for name in wishes), f"{wishes} {decoding} {expected} {tokens} {said}"
        finally:
            model.generation_config = own


@pytest.mark.parametrize("name", DECODING)
def test_every_field_with_odd_values(model, made, inputs, folder, name):
    proper = [PROPER[name]] if name in PROPER else []
    for value in (*proper, *ODD):
        assert_right_or_said(model, made, inputs, folder, {name: value}, GREEDY)
    for value in (*proper, 1, 0.5, "abc", [2]):
        assert_right_or_said(model, made, inputs, folder, {name: value}, SAMPLED)


@pytest.mark.parametrize("name", DECODING)
def test_with_dola_what_is_kept_is_what_dola_generate_keeps(model, made, inputs, folder, name):
    """And layers that an argument names win over those of the generation config."""
    for value in ([PROPER[name]] if name in PROPER else []) + [1, [2]]:
        (folder / NAME).write_text(json.dumps({"pad_token_id": 0, name: value}))
        with warnings.catch_warnings(), dola.attach(model, HIGH):
            warnings.simplefilter("ignore")
            tokens, said = command(model, made, inputs, folder, GREEDY)
        if tokens == FAILED:
            assert name in said
            continue
        call = {**GREEDY.arguments(), "pad_token_id": 0, "tokenizer": made, "dola_layers": HIGH}
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                expected = dola.generate(model, **inputs, **call)
            expected = getattr(expected, "sequences", expected)[0, inputs["input_ids"].shape[1] :].tolist()
        except Exception:
            expected = FAILED
        assert tokens == expected or name in said, f"{name} {value} {tokens} {expected} {said}"
    model.generation_config = GenerationConfig()


WISHES = st.dictionaries(st.sampled_from(DECODING), st.sampled_from(ODD) | st.none(), min_size=1, max_size=4) | st.dictionaries(
    st.sampled_from(sorted(PROPER)), st.none(), min_size=1, max_size=4
).map(lambda names: {name: PROPER[name] for name in names})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(wishes=WISHES)
@example(wishes={"assistant_confidence_threshold": None, "suppress_tokens": 0, "watermarking_config": 0})  # two are refused
def test_several_fields_at_once(model, made, inputs, folder, wishes):
    for decoding in (GREEDY, SAMPLED):
        assert_right_or_said(model, made, inputs, folder, wishes, decoding)


def test_a_field_that_the_table_does_not_know_is_reported(model, made, inputs, folder):
    (folder / NAME).write_text(json.dumps({"pad_token_id": 0, "steering": 0.5}))
    own = tokens = None
    try:
        own, model.generation_config = model.generation_config, GenerationConfig(pad_token_id=0)
        plain = judge(model, made, inputs, folder, GREEDY)
        tokens, said = command(model, made, inputs, folder, GREEDY)
    finally:
        model.generation_config = own
    assert tokens == plain
    assert "steering=0.5" in said


def test_the_table_knows_every_field_of_this_transformers():
    from dola.model.generation_fields import FIELDS as TABLE

    assert set(FIELDS) <= set(TABLE)
