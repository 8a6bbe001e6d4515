"""mlx-lm's ways of generating with a method: streams, batches, caches, quantized caches, drafts, samplers."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.generate import BatchGenerator, generate_step, speculative_generate_step
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.sample_utils import make_logits_processors
from tiny_mlx import tiny

import dola.mlx
from dola.errors import InputError

PROMPT, NEW = mx.array([3, 9, 27, 17, 51]), 8
CONFIGS = [
    dola.mlx.DoLaConfig("high"),
    dola.mlx.DoLaConfig("high", scores="distribution", strength=0.5),
    dola.mlx.ConfidentConfig(),
    dola.mlx.DeLTaConfig(),
    dola.mlx.SLEDConfig(),
]


def stepwise(model, new=NEW):
    """Greedy without a cache: the whole text in each forward."""
    tokens = PROMPT
    for _ in range(new):
        tokens = mx.concatenate([tokens, model(tokens[None])[0, -1].argmax()[None].astype(tokens.dtype)])
    return tokens[len(PROMPT) :].tolist()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_caches_and_drafts_change_no_token(config):
    model, draft = tiny("llama"), tiny("qwen3")
    with dola.mlx.attach(model, config):
        wanted = stepwise(model)
        assert [int(t) for t, _ in generate_step(PROMPT, model, max_tokens=NEW)] == wanted
        assert [int(t) for t, *_ in speculative_generate_step(PROMPT, model, draft, max_tokens=NEW)] == wanted


def test_a_prompt_cache_continues_where_it_ended():
    model = tiny("llama")
    with dola.mlx.attach(model, "high"):
        wanted, cache = stepwise(model), make_prompt_cache(model)
        model(PROMPT[None, :3], cache=cache)
        assert [int(t) for t, _ in generate_step(PROMPT[3:], model, max_tokens=NEW, prompt_cache=cache)] == wanted


def test_a_batch_decodes_each_prompt_as_alone():
    model, prompts = tiny("llama"), [[3, 9, 27, 17, 51], [8, 4]]
    with dola.mlx.attach(model, "high"):
        alone = [[int(t) for t, _ in generate_step(mx.array(each), model, max_tokens=NEW)] for each in prompts]
        batch = BatchGenerator(model)
        ids = batch.insert(prompts, [NEW] * 2)
        found = {uid: [] for uid in ids}
        while responses := batch.next_generated():
            for each in responses:
                found[each.uid].append(each.token)
        batch.close()
    assert [found[uid] for uid in ids] == alone


def test_logits_processors_see_the_scores():
    model = tiny("llama")
    with dola.mlx.attach(model, "high"):
        first = stepwise(model, 1)[0]
        processors = make_logits_processors({first: -1e9})
        found = [int(t) for t, _ in generate_step(PROMPT, model, max_tokens=NEW, logits_processors=processors)]
    assert first not in found


def test_a_model_is_no_draft_of_itself():
    model = tiny("llama")
    with pytest.raises(InputError, match="draft_model is the model itself"):
        dola.mlx.generate(model, None, "x", draft_model=model)


def test_other_layers_than_the_attached_ones_are_refused():
    model = tiny("llama")
    with dola.mlx.attach(model, "high"), pytest.raises(InputError, match="DoLa is attached to this model with layers='high'"):
        dola.mlx.generate(model, None, "x", dola_layers="low")


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.method)
def test_skipping_the_layers_changes_no_token(config):
    """A sharper model has steps with one plausible token, and others."""
    model = tiny("llama")
    model.model.norm.weight = 3 * model.model.norm.weight
    with dola.mlx.attach(model, config):
        wanted = [int(t) for t, _ in generate_step(PROMPT, model, max_tokens=40)]
    with dola.mlx.attach(model, config, lazy=True) as attached:
        assert [int(t) for t, _ in generate_step(PROMPT, model, max_tokens=40)] == wanted
    can_settle = config.method in ("dola", "delta")
    assert (0 < attached.skipping.saved < attached.skipping.steps) == can_settle
