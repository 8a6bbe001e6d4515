"""Gradients of DoLa's scores: asking for them gives a clear error, and other calls are unchanged."""

import pytest
import torch
from families import tiny
from torch.nn.functional import cross_entropy

import dola
from dola.errors import InputError

REFUSED = r"DoLa decodes and does not train: its scores have no gradient\.(.|\n)*model\.dola\.remove\(\)"


def trainable(part):
    model = tiny("llama")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part in name)
    return model


def loss_of(model, ids):
    logits = model(ids).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


@pytest.mark.parametrize("part", ["", "lm_head", "model.norm", "q_proj", "embed_tokens"], ids=lambda part: part or "all")
@pytest.mark.parametrize("together", [True, False], ids=["read together", "read apart"])
def test_a_backward_pass_is_refused(ids, monkeypatch, part, together):
    monkeypatch.setattr("dola.decoding.step.Step._plan", lambda *args: together)
    model = trainable(part)
    with dola.attach(model):
        loss = loss_of(model, ids)
        with pytest.raises(InputError, match=REFUSED):
            loss.backward()
        assert all(parameter.grad is None for parameter in model.parameters())
    loss_of(model, ids).backward()
    assert any(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:`torch.jit.script`")  # of torch's forward mode
@pytest.mark.parametrize(
    "gradient",
    [
        lambda total, inputs: torch.autograd.grad(total(inputs), inputs),
        lambda total, inputs: torch.autograd.functional.jacobian(total, inputs),
        lambda total, inputs: torch.func.grad(total)(inputs),
        lambda total, inputs: torch.func.jvp(total, (inputs,), (inputs,)),
    ],
    ids=["grad", "jacobian", "func.grad", "func.jvp"],
)
def test_a_gradient_of_the_inputs_is_refused(llama, ids, gradient):
    embeddings = llama.get_input_embeddings()(ids).requires_grad_(True)
    with dola.attach(llama), pytest.raises(InputError, match=REFUSED):
        gradient(lambda states: llama(inputs_embeds=states).logits.sum(), embeddings)


def test_hidden_states_are_the_models_own_and_have_gradients(llama, ids):
    embeddings = llama.get_input_embeddings()(ids).requires_grad_(True)
    with dola.attach(llama):
        llama(inputs_embeds=embeddings, output_hidden_states=True).hidden_states[2].sum().backward()
    assert embeddings.grad.any()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_scores_are_unchanged(ids, mode):
    model = trainable("")
    with dola.attach(model):
        with mode():
            quiet = model(ids).logits
        assert not quiet.requires_grad
        assert quiet.grad_fn is None
        assert (
            not model.generate(ids, max_new_tokens=2, output_scores=True, return_dict_in_generate=True).scores[0].requires_grad
        )
        assert torch.equal(model(ids).logits, quiet)


def test_scores_can_be_changed_in_place_without_no_grad(ids):
    """Logits processors write into all scores or some of them."""
    model = trainable("")
    with dola.attach(model):
        scores = model(ids).logits
        expected = scores.detach().clone()
        scores[:, -1] = -torch.inf
        scores.mul_(2)
        scores[0].clamp_(max=0)
        assert torch.equal(scores[:, :-1], (2 * expected[:, :-1]).clamp(max=0))
        assert model(ids).logits.argmax(-1).tolist() == expected.argmax(-1).tolist()


def test_a_model_without_trainable_weights_has_plain_scores(llama, ids):
    with dola.attach(llama):
        assert not llama(ids).logits.requires_grad
