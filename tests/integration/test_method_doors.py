"""Each method through each door of Python: the tokens of a model that plainly is that method. docs/doors.md has a table.

The modes are those of test_doors.py, which says more of each for DoLa.
"""

import copy
from pathlib import Path

import pytest
import torch
from each_method import METHODS, each_method, named
from families import tiny
from transformers import CompileConfig, DynamicCache, GenerationConfig
from words import word_tokenizer

import dola
from dola.errors import ConfigError
from dola.methods.registry import BUILT_IN, method_of
from dola.model.hidden import cache_name
from integration.oracle import oracle_of
from integration.test_doors import BATCH, DOORS, MASK, PROMPT, plainly

COMMON = {"max_new_tokens": 8, "pad_token_id": 0, "eos_token_id": 2}


@pytest.fixture(scope="module")
def model():
    return tiny("llama")


@pytest.fixture(scope="module")
def oracles(model):
    return {name: oracle_of(model, config=config) for name, config in METHODS.items()}


def by_attach(model, config, *args, **settings):
    with dola.attach(model, config):
        return model.generate(*args, **settings)


def by_generate(model, config, *args, **settings):
    return dola.generate(model, *args, dola_layers=config, **settings)


def by_name(model, config, *args, **settings):
    return dola.generate(model, *args, **named(config), **settings)


def by_install(model, config, *args, **settings):
    """Installed settings, and settings of one call that override installed ones, give the same tokens."""
    dola.install(config)
    try:
        found = model.generate(*args, dola_layers=config.layers, **settings)
        torch.manual_seed(3)
        assert torch.equal(model.generate(*args, dola_layers=config, **settings), found)
    finally:
        dola.uninstall()
    return found


def by_install_and_name(model, config, *args, **settings):
    dola.install()
    try:
        return model.generate(*args, **named(config), **settings)
    finally:
        dola.uninstall()


WAYS = {
    "attach": by_attach,
    "generate": by_generate,
    "generate by name": by_name,
    "install": by_install,
    "install by name": by_install_and_name,
}


def walk(way, model, *args, **settings):
    torch.manual_seed(3)
    return way(model, *args, **{**COMMON, **settings})


def test_all_methods_are_here():
    assert set(METHODS) == set(BUILT_IN)
    assert all(config.method == name for name, config in METHODS.items())


@each_method
@pytest.mark.parametrize("way", WAYS)
def test_attach_generate_and_install(model, oracles, name, way):
    found = walk(WAYS[way], model, METHODS[name], PROMPT, do_sample=False)
    assert torch.equal(found, walk(plainly, oracles[name], PROMPT, do_sample=False))
    assert not torch.equal(found, walk(plainly, model, PROMPT, do_sample=False))  # and plain again afterwards


@each_method
@pytest.mark.parametrize("mode", DOORS)
def test_modes(model, oracles, name, mode):
    expected = walk(plainly, oracles[name], PROMPT, **DOORS[mode])
    assert torch.equal(walk(by_generate, model, METHODS[name], PROMPT, **DOORS[mode]), expected)


@each_method
def test_left_padded_batches(model, oracles, name):
    settings = {"attention_mask": MASK, "do_sample": False}
    found = walk(by_generate, model, METHODS[name], BATCH, **settings)
    assert torch.equal(found, walk(plainly, oracles[name], BATCH, **settings))


@each_method
def test_assistant_model(model, oracles, name):
    assistant = copy.deepcopy(model)
    assistant.lm_head.weight.add_(0.02 * torch.randn(assistant.lm_head.weight.shape))  # right often, not always
    found = walk(by_generate, model, METHODS[name], PROMPT, assistant_model=assistant, do_sample=False)
    assert torch.equal(found, walk(plainly, oracles[name], PROMPT, do_sample=False))


@each_method
def test_continued_from_a_cache(model, oracles, name):
    def two_turns(way, model, *config):
        settings = {cache_name(model): DynamicCache(config=model.config), "do_sample": False, "eos_token_id": None}
        first = walk(way, model, *config, PROMPT, **settings)
        return walk(way, model, *config, torch.cat([first, torch.tensor([[9, 44, 201]])], dim=1), **settings)

    assert torch.equal(two_turns(by_generate, model, METHODS[name]), two_turns(plainly, oracles[name]))


@each_method
def test_scores_are_returned(model, oracles, name):
    settings = {"do_sample": False, "return_dict_in_generate": True, "output_scores": True, "repetition_penalty": 1.2}
    found = walk(by_generate, model, METHODS[name], PROMPT, output_logits=True, **settings)
    expected = walk(plainly, oracles[name], PROMPT, **settings)
    torch.testing.assert_close(found.scores, expected.scores, atol=2e-3, rtol=1e-3)
    with torch.no_grad():
        own = model(found.sequences[:, :-1], logits_to_keep=len(found.logits)).logits[0]
    torch.testing.assert_close(torch.cat(found.logits), own, atol=2e-3, rtol=1e-3)


@each_method
@pytest.mark.parametrize("way", ["attach", "generate"])
def test_compiled_generate(model, oracles, name, way):
    compiling = CompileConfig(backend="eager", mode=None, fullgraph=True)
    compiling._compile_all_devices = True  # or `generate` compiles nothing on a CPU
    torch._dynamo.reset()
    settings = {"cache_implementation": "static", "compile_config": compiling, "do_sample": False}
    found = walk(WAYS[way], model, METHODS[name], PROMPT, **settings)
    assert torch.equal(found, walk(plainly, oracles[name], PROMPT, do_sample=False))


@each_method
def test_compiled_wrapper(model, oracles, name):
    torch._dynamo.reset()
    with dola.attach(model, METHODS[name]), torch.no_grad():
        found = torch.compile(model, backend="eager")(BATCH, attention_mask=MASK).logits
        expected = oracles[name](BATCH, attention_mask=MASK).logits
    torch.testing.assert_close(found[MASK.bool()], expected[MASK.bool()], rtol=1e-3, atol=2e-3)


@each_method
def test_bans(model, oracles, name):
    """Whatever the method can choose is banned: the mature order decides. A part of it is banned: the method's next choice."""
    with torch.no_grad():
        mature, scores = model(PROMPT).logits[0, -1], oracles[name](PROMPT).logits[0, -1]
    support = method_of(METHODS[name]).support(mature[None])[0]
    first = int(scores.argmax())
    left = (
        scores.index_fill(0, torch.tensor([first]), -torch.inf)
        if support.sum() > 1
        else mature.masked_fill(support, -torch.inf)
    )
    found = walk(by_generate, model, METHODS[name], PROMPT, do_sample=False, bad_words_ids=[[first]], max_new_tokens=1)
    assert int(found[0, -1]) == int(left.argmax())
    if support.all():
        return
    banned = [[token] for token in support.nonzero()[:, 0].tolist()]
    found = walk(by_generate, model, METHODS[name], PROMPT, do_sample=False, bad_words_ids=banned, max_new_tokens=1)
    assert int(found[0, -1]) == int(mature.masked_fill(support, -torch.inf).argmax())


@each_method
def test_custom_generate(model, oracles, name):
    """A custom decoding loop reads the method's scores. In transformers 5 contrastive search and others are such loops."""

    def greedy(model, input_ids, **_):
        for _ in range(5):
            input_ids = torch.cat([input_ids, model(input_ids).logits[:, -1:].argmax(dim=-1)], dim=1)
        return input_ids

    found = walk(by_attach, model, METHODS[name], PROMPT, custom_generate=greedy)
    assert torch.equal(found, walk(plainly, oracles[name], PROMPT, do_sample=False, max_new_tokens=5))


@each_method
@pytest.mark.filterwarnings("ignore")
def test_the_hub_repository(model, oracles, name):
    """hub/custom_generate as a local folder: every method by its name."""
    repository = Path(__file__).parents[2] / "hub" / "custom_generate"
    settings = {"do_sample": False, "max_new_tokens": 5, **named(METHODS[name])}
    found = model.generate(PROMPT, custom_generate=str(repository), trust_remote_code=True, **settings)
    assert torch.equal(found, walk(plainly, oracles[name], PROMPT, do_sample=False, max_new_tokens=5))


@each_method
def test_score(model, oracles, name):
    ids = PROMPT[0].tolist()
    found = dola.score(model, word_tokenizer(), [ids[:6]], [[ids[6:]]], {"it": METHODS[name]}, progress=False)
    with torch.no_grad():
        log_p = oracles[name](PROMPT).logits[0, 5:9].log_softmax(dim=-1)
    expected = sum(float(log_p[i, token]) for i, token in enumerate(ids[6:]))
    assert found.values["it"][0][0] == pytest.approx(expected, rel=1e-4, abs=5e-3)


@each_method
def test_trace(model, oracles, name):
    trace = dola.trace(model, word_tokenizer(), PROMPT[0].tolist(), METHODS[name])
    with torch.no_grad():
        best = oracles[name](PROMPT).logits[0].argmax(dim=-1).tolist()
    assert [token.dola_choice for token in trace.tokens] == best


class TestNamesInACall:
    """`dola_method` and settings as arguments."""

    def test_settings_change_what_is_installed(self, model):
        dola.install(dola.SLEDConfig([2, 4], rate=5))
        try:
            found = walk(plainly, model, PROMPT, do_sample=False, dola_scale=7)
            other = walk(plainly, model, PROMPT, do_sample=False, dola_method="delta")
            with pytest.raises(ConfigError, match="'relative_top' is not a setting of the method 'sled'"):
                model.generate(PROMPT, dola_relative_top=0.1)
        finally:
            dola.uninstall()
        assert torch.equal(found, walk(by_generate, model, dola.SLEDConfig([2, 4], rate=5, scale=7), PROMPT, do_sample=False))
        assert torch.equal(other, walk(by_generate, model, dola.DeLTaConfig(), PROMPT, do_sample=False))

    def test_layers_of_a_generation_config(self, model):
        """Layers of the call's config apply to any method, those of the model's config only to DoLa."""
        given = GenerationConfig(dola_layers=[1, 2], do_sample=False, **COMMON)
        for config in (dola.DoLaConfig([1, 2], relative_top=0.3), dola.SLEDConfig([1, 2], rate=7)):
            asked = {name: value for name, value in named(config).items() if name != "dola_layers"}
            expected = walk(by_generate, model, config, PROMPT, do_sample=False)
            assert torch.equal(dola.generate(model, PROMPT, generation_config=given, **asked), expected)
        model.generation_config.dola_layers = [1, 2]
        try:
            found = walk(dola.generate, model, PROMPT, do_sample=False, dola_relative_top=0.3)
            other = walk(dola.generate, model, PROMPT, do_sample=False, dola_method="sled")
        finally:
            model.generation_config.dola_layers = None
        assert torch.equal(found, walk(by_generate, model, dola.DoLaConfig([1, 2], relative_top=0.3), PROMPT, do_sample=False))
        assert torch.equal(other, walk(by_generate, model, dola.SLEDConfig(), PROMPT, do_sample=False))

    @pytest.mark.parametrize("call", [dola.generate, plainly])
    def test_a_method_in_a_generation_config_is_refused(self, model, call):
        """transformers keeps any name there; nobody would read it."""
        given = GenerationConfig(dola_method="sled", dola_layers=[2, 4], max_new_tokens=2)
        dola.install()
        try:
            with pytest.raises(ConfigError, match="dola_method='sled' of a generation config has no effect"):
                call(model, PROMPT, generation_config=given)
        finally:
            dola.uninstall()
