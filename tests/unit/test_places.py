"""A model that changes while DoLa is attached: parts that are replaced, and hooks of others.

The judge is a fresh attachment to the changed model, and for hooks a recomputation from the states that the model passes on.
"""

from __future__ import annotations

import copy

import pytest
import torch
from families import tiny
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import dola
from dola.contrast import contrast
from dola.errors import ModelError, ReadoutError

peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),  # which peft reads
    pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning"),  # an RMSNorm, to its LN tuning
]

BATCH = torch.tensor([[5, 17, 200, 33, 8, 91, 4], [9, 9, 31, 6, 77, 3, 250]])
STEER = torch.linspace(-1, 1, 32)


@pytest.fixture
def model():
    made = tiny("llama")
    yield made
    if hasattr(made, "dola"):  # after a failure
        made.dola.remove()


def fresh(model, ids=BATCH):
    """The scores of the model as it is now, by an attachment that has seen nothing of its past."""
    copied = copy.deepcopy(model)
    with dola.attach(copied, "high"):
        return copied(ids).logits


def changed_after_attach(model, change, ids=BATCH):
    """Scores before and after a change, under one attachment; and a fresh attachment's after it."""
    attachment = dola.attach(model, "high")
    before = model(ids).logits
    result = change(model)
    after = model(ids).logits
    attachment.remove()
    return before, after, fresh(model if result is None else result, ids)


def lora_on_head(model):
    config = peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False, r=4)
    return peft.get_peft_model(model, config)


def adapter_on_head(model):
    try:
        model.add_adapter(peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False, r=4))
    except ValueError as error:  # transformers 5.24 refuses peft 0.21.2, which was the newest then
        if "version of PEFT" not in str(error):
            raise
        pytest.skip(str(error))


def new_head(model):
    head = nn.Linear(32, 401, bias=False).requires_grad_(False)
    model.set_output_embeddings(head)


def new_head_with_bias(model):
    model.lm_head = nn.Linear(32, 401).requires_grad_(False)


def copied_head_and_norm(model):
    """PEFT trains a copy of these, made by deepcopy."""
    config = peft.LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head", "norm"], task_type="CAUSAL_LM")
    tuned = peft.get_peft_model(model, config).eval()
    model.lm_head.modules_to_save["default"].weight.data.mul_(torch.linspace(0.2, 3, 401)[:, None])
    model.model.norm.modules_to_save["default"].weight.data.mul_(torch.linspace(0.2, 3, 32))
    return tuned


def copied_block(model):
    """Depth up-scaling copies blocks; here it copies a candidate."""
    model.model.layers[4] = copy.deepcopy(model.model.layers[3])


def wider(model):
    model.resize_token_embeddings(420)


def new_norm(model):
    model.model.norm = nn.LayerNorm(32).requires_grad_(False)


def tuned_norm(model):
    tuned = peft.get_peft_model(model, peft.LNTuningConfig(target_modules=["norm"], task_type="CAUSAL_LM"))
    model.model.norm.ln_tuning_layers["default"].weight.data.mul_(torch.linspace(0.2, 3, 32))
    return tuned


def new_block(model):
    model.model.layers[4] = copy.deepcopy(model.model.layers[1])


def new_last_block(model):
    model.model.layers[-1] = copy.deepcopy(model.model.layers[1])


def new_decoder(model):
    model.model = tiny("llama", seed=3).model


CHANGES = [
    lora_on_head, adapter_on_head, new_head, new_head_with_bias, wider, new_norm, tuned_norm,
    new_block, new_last_block, new_decoder, copied_head_and_norm, copied_block,
]  # fmt: skip


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_replaced_part_is_followed(model, change):
    before, after, expected = changed_after_attach(model, change)
    assert before.shape != after.shape or (before - after).abs().max() > 0.1  # the change can be seen
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_part_replaced_between_two_generate_calls_is_followed(model, change):
    call = {"max_new_tokens": 5, "do_sample": False, "repetition_penalty": 1.2}
    with dola.attach(model, "high"):
        model.generate(BATCH, **call)
        changed = change(model) or model
        found = changed.generate(input_ids=BATCH, **call)
    assert torch.equal(found, dola.generate(changed, input_ids=BATCH, dola_layers="high", **call))


def test_merging_an_adapter_away_is_followed(model):
    adapted = lora_on_head(model)
    attachment = dola.attach(adapted, "high")
    adapted(BATCH)
    merged = adapted.merge_and_unload()
    after = merged(BATCH).logits
    attachment.remove()
    torch.testing.assert_close(after, fresh(merged))


@pytest.mark.parametrize("eagerly", [True, False], ids=["an eager forward between", "no eager forward"])
def test_a_compiled_model_follows_a_replaced_part(model, eagerly):
    if not (eagerly or hasattr(torch._C._dynamo.eval_frame, "set_code_exec_strategy")):
        pytest.skip("this torch compiles hooks by themselves, and then such a call is refused by name")
    compiled = torch.compile(model, backend="eager")
    with dola.attach(model, "high"):
        before = compiled(BATCH).logits
        new_head(model)
        if eagerly:
            model(BATCH)
        after = compiled(BATCH).logits
    assert (before - after).abs().max() > 0.1
    torch.testing.assert_close(after, fresh(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite", "gpt2", "opt", "gemma"])
def test_tied_heads_norms_and_transforms_of_other_families_are_followed(name):
    model = tiny(name)
    attachment = dola.attach(model, "high")
    model(BATCH)
    if name == "gemma2":
        model.config.final_logit_softcapping = 4.0
    elif name == "cohere":
        model.logit_scale = 2.0
    elif name == "granite":
        model.config.logits_scaling = 3.0
    else:
        model.resize_token_embeddings(411)
    after = model(BATCH).logits
    attachment.remove()
    torch.testing.assert_close(after, fresh(model))


def test_a_head_that_is_untied_changes_the_low_bucket():
    model = tiny("gemma")
    with dola.attach(model, "low") as attachment:
        model(BATCH)
        assert attachment.layers == (2,)
        model.config.tie_word_embeddings = False
        model.lm_head = nn.Linear(32, 401, bias=False).requires_grad_(False)
        after = model(BATCH).logits
        assert attachment.layers == (0, 2)
    with dola.attach(model, "low"):
        torch.testing.assert_close(after, model(BATCH).logits)


def test_a_copy_of_a_part_is_free_of_dola(model):
    with dola.attach(model, "high"):
        copied = copy.deepcopy(model.model)
    torch.testing.assert_close(copied(BATCH).last_hidden_state, model.model(BATCH).last_hidden_state)


def test_a_model_that_got_other_layers_is_refused(model):
    with dola.attach(model, "high"):
        model(BATCH)
        del model.model.layers[2]
        with pytest.raises(ModelError, match=r"changed with DoLa attached to it: model\.layers"):
            model(BATCH)


def test_parts_that_the_caller_named_are_not_guessed_again(model):
    with dola.attach(model, "high", anatomy=dola.Anatomy.of(model)):
        model(BATCH)
        new_head(model)
        with pytest.raises(ModelError, match="LlamaForCausalLM was changed with DoLa attached to it: lm_head"):
            model(BATCH)


def test_each_row_is_read_with_its_own_adapter(model):
    adapted = lora_on_head(model)
    adapted.add_adapter("other", peft.LoraConfig(target_modules=["lm_head"], init_lora_weights=False, r=2))
    adapted.eval()
    with dola.attach(adapted, "high"):
        together = adapted(input_ids=BATCH, adapter_names=["default", "other"]).logits
        for row, adapter in enumerate(["default", "other"]):
            adapted.set_adapter(adapter)
            torch.testing.assert_close(together[row], adapted(input_ids=BATCH).logits[row], rtol=1e-4, atol=1e-4)


# Hooks of others


def expected_scores(model, config=None):
    """The contrast of what the model passes on, hooks included: states taken by wrapping the forwards of its modules."""
    anatomy, states = dola.Anatomy.of(model), {}
    layers = range(3, 6, 2)
    originals = [block.forward for block in anatomy.blocks]

    def recorder(layer, forward):
        def recorded(hidden, *args, **kwargs):
            states[layer] = hidden.clone()
            return forward(hidden, *args, **kwargs)

        return recorded

    for layer, block in enumerate(anatomy.blocks):
        block.forward = recorder(layer, block.forward)
    mature = model(BATCH).logits
    for block, original in zip(anatomy.blocks, originals, strict=True):
        del block.forward
        assert block.forward == original
    premature = torch.stack([model.lm_head(model.model.norm(states[layer])) for layer in layers])
    return contrast(mature, premature)


def steer_input(module, args):
    return (args[0] + STEER, *args[1:])


def steer_output(module, args, output):
    return (output[0] + STEER, *output[1:]) if isinstance(output, tuple) else output + STEER


STEERING = {
    "input of a candidate": lambda m: m.model.layers[3].register_forward_pre_hook(steer_input),
    "input of the last block": lambda m: m.model.layers[5].register_forward_pre_hook(steer_input),
    "output of a block": lambda m: m.model.layers[2].register_forward_hook(steer_output),
    "output of the last block": lambda m: m.model.layers[5].register_forward_hook(steer_output),
    "output of the embeddings": lambda m: m.model.embed_tokens.register_forward_hook(steer_output),
    "output of the final norm": lambda m: m.model.norm.register_forward_hook(steer_output),
    "input of the head": lambda m: m.lm_head.register_forward_pre_hook(steer_input),
}


@pytest.mark.parametrize("when", ["before", "after", "between two forwards"])
@pytest.mark.parametrize("where", STEERING)
def test_a_steering_hook_counts_whenever_it_was_registered(model, where, when):
    if when == "before":
        STEERING[where](model)
        attachment = dola.attach(model, "high")
    else:
        attachment = dola.attach(model, "high")
        if when != "after":
            model(BATCH)
        STEERING[where](model)
    scores = model(BATCH).logits
    one = model(BATCH, logits_to_keep=1).logits
    attachment.remove()
    torch.testing.assert_close(scores, expected_scores(model), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(one, scores[:, -1:], rtol=1e-4, atol=1e-4)


def to_lm_head(model, change):
    return lambda module, args, output: change(module, args, output) if module is model.lm_head else None


@pytest.mark.parametrize("when", ["before", "after", "between two forwards"])
def test_a_hook_on_all_modules_counts_whenever_it_was_registered(model, when):
    handle = None
    ramp = torch.linspace(-3, 3, 401)

    def register():
        return register_module_forward_hook(to_lm_head(model, lambda module, args, output: output + ramp))

    try:
        if when == "before":
            handle = register()
        with dola.attach(model, "high"):
            if when == "between two forwards":
                model(BATCH)
            handle = handle or register()
            scores = model(BATCH).logits
            one = model(BATCH, logits_to_keep=1).logits
        torch.testing.assert_close(scores, expected_scores(model), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(one, scores[:, -1:], rtol=1e-4, atol=1e-4)
    finally:
        handle.remove()


@pytest.mark.parametrize("where", STEERING)
def test_generate_with_a_steering_hook_is_the_same_by_every_door(model, where):
    call = {"max_new_tokens": 6, "do_sample": False, "repetition_penalty": 1.2}
    with dola.attach(model, "high"):
        STEERING[where](model)
        attached = model.generate(BATCH, **call)
    assert torch.equal(attached, dola.generate(model, BATCH, dola_layers="high", **call))


def last_position_only(module, args, output):
    output = output.clone()
    output[:, -1, 7] += 5.0
    return output


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hook_that_goes_by_positions_sees_the_shape_that_the_model_gives_it(model, when):
    attachment = dola.attach(model, "high") if when == "after" else None
    model.lm_head.register_forward_hook(last_position_only)
    attachment = attachment or dola.attach(model, "high")
    scores = model(BATCH).logits
    attachment.remove()
    torch.testing.assert_close(scores, expected_scores(model), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["model", ""])
def test_a_hook_that_changes_what_lies_between_the_last_block_and_the_logits_is_named(model, where):
    def change_the_answer(module, args, output):
        if where:
            output.last_hidden_state = output.last_hidden_state + 5 * STEER
        else:
            output.logits = output.logits + 5.0 * torch.arange(401)
        return output

    with dola.attach(model, "high"):
        model(BATCH)
        model.get_submodule(where).register_forward_hook(change_the_answer)
        with pytest.raises(ReadoutError, match=f"change_the_answer on {where or 'LlamaForCausalLM'}"):
            model(BATCH)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("where", ["model", ""])
def test_a_forward_that_somebody_replaced_is_named(model, where, when):
    module = model.get_submodule(where)

    def replace():
        original = module.forward

        def louder(*args, **kwargs):
            output = original(*args, **kwargs)
            name = "last_hidden_state" if where else "logits"
            output[name] = 2 * output[name] + torch.arange(output[name].shape[-1])
            return output

        module.forward = louder

    if when == "before":
        replace()
    with dola.attach(model, "high"):
        if when == "after":
            model(BATCH)
            replace()
        with pytest.raises(ReadoutError, match=f"louder as the forward of {where or 'LlamaForCausalLM'}"):
            model(BATCH)


class Letters:
    """The few methods of a tokenizer that a trace needs."""

    def decode(self, ids, **kwargs):
        return "".join(chr(97 + token % 26) for token in ids)

    def convert_ids_to_tokens(self, ids):
        return [chr(97 + token % 26) for token in ids]


def attached_forward(model):
    with dola.attach(model, "high"):
        model(BATCH)


READ = {
    "attach": attached_forward,
    "score": lambda model: dola.score(
        model, None, [[5, 17]], [[[33, 8], [91, 4]]], {"dola": dola.DoLaConfig("high")}, progress=False
    ),
    "trace": lambda model: dola.trace(model, Letters(), BATCH[0].tolist(), "high"),
}


@pytest.mark.parametrize("rows", [(0, slice(None)), (slice(None), slice(0, -1))], ids=["one text", "all but the end"])
@pytest.mark.parametrize("door", READ)
def test_a_hook_that_changes_some_positions_between_the_last_block_and_the_logits_is_named(model, door, rows):
    def change_some(module, args, output):
        output.last_hidden_state = output.last_hidden_state.clone()
        output.last_hidden_state[rows] += 5 * STEER
        return output

    model.model.register_forward_hook(change_some)
    with pytest.raises(ReadoutError, match="change_some on model"):
        READ[door](model)


def test_hooks_that_only_look_change_nothing(model):
    plain = fresh(model)
    seen = []
    with dola.attach(model, "high"):
        for module in (model, model.lm_head, model.model.norm, model.model.layers[3]):
            module.register_forward_hook(lambda module, args, output: seen.append(module))
        scores = model(BATCH).logits
    torch.testing.assert_close(scores, plain, rtol=1e-4, atol=1e-4)
    assert seen


def test_scoring_names_a_hook_that_changes_one_row_of_several(model):
    model.lm_head.register_forward_hook(last_position_only)
    with pytest.raises(ModelError, match="last_position_only on lm_head"):
        dola.score(model, None, [[5, 17, 200]], [[[33, 8], [91]]], {"dola": dola.DoLaConfig("high")}, progress=False)
