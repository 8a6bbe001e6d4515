"""Registered anatomies, by a call or an entry point, and model types that are refused by name."""

import dataclasses
from importlib.metadata import EntryPoint

import any_model
import pytest
import torch
from families import tiny

import dola
from dola.errors import ModelError
from dola.model import adapters
from dola.model.adapters import GROUP, REFUSED, AltUp, unregister_anatomy
from dola.model.anatomy import Anatomy, Chain, Cut, Scale, SoftCap, register_anatomy


@pytest.fixture(autouse=True)
def _nothing_registered_afterwards(monkeypatch):
    monkeypatch.setattr(adapters, "_registered", {})


def scaled(lm):
    """An anatomy that differs from the one found by structure."""
    return dataclasses.replace(Anatomy.by_structure(lm), logit_transform=Scale(1.0))


def by_entry_point(monkeypatch, value):
    point = EntryPoint(name="llama", value=value, group=GROUP)
    monkeypatch.setattr(adapters, "entry_points", lambda *, group: [point] if group == GROUP else [])


def test_a_registered_anatomy_is_used_by_every_door(llama, ids):
    called = []
    register_anatomy("llama", lambda lm: called.append(lm) or scaled(lm))
    with dola.attach(llama) as attached:
        assert attached.anatomy.logit_transform == Scale(1.0)
        assert model_logits(llama, ids).isfinite().all()
    dola.generate(llama, ids, max_new_tokens=2)
    assert called == [llama, llama]
    unregister_anatomy("llama")
    unregister_anatomy("llama")
    assert Anatomy.of(llama).logit_transform is None


def model_logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_the_first_forward_detects_a_wrong_registered_anatomy(llama, ids):
    register_anatomy("llama", lambda lm: dataclasses.replace(Anatomy.by_structure(lm), final_norm=None))
    with dola.attach(llama), pytest.raises(dola.errors.ReadoutError, match="does not reproduce its logits"):
        llama(ids)


def test_other_types_are_left_to_structure():
    register_anatomy("mine", scaled)
    assert Anatomy.of(tiny("gpt2")).logit_transform is None


def test_registering_twice_needs_replace(llama):
    register_anatomy("llama", scaled)
    with pytest.raises(ModelError, match=r"'llama' is already registered, by .*scaled(.|\n)*replace=True"):
        register_anatomy("llama", lambda lm: None)
    register_anatomy("llama", Anatomy.by_structure, replace=True)
    assert Anatomy.of(llama).logit_transform is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", scaled), "model_type='' is not the name"),
        ((3, scaled), "model_type=3 is not the name"),
        (("x", 1), "is not callable"),
    ],
)
def test_invalid_registrations_are_refused(arguments, message):
    with pytest.raises(ModelError, match=message):
        register_anatomy(*arguments)


def test_a_factory_that_fails_or_returns_something_else(llama):
    register_anatomy("llama", lambda lm: lm.no_such_part)
    with pytest.raises(ModelError, match=r"registered for 'llama' by .* failed: AttributeError(.|\n)*in that factory"):
        dola.attach(llama)
    register_anatomy("llama", lambda lm: lm.model.layers, replace=True)
    with pytest.raises(ModelError, match="is a ModuleList, not an Anatomy"):
        dola.attach(llama)


def test_an_entry_point_is_used_and_a_call_comes_before_it(llama, monkeypatch):
    by_entry_point(monkeypatch, "unit_anatomies:scaled")
    monkeypatch.setitem(__import__("sys").modules, "unit_anatomies", __import__("types").SimpleNamespace(scaled=scaled))
    assert Anatomy.of(llama).logit_transform == Scale(1.0)
    register_anatomy("llama", Anatomy.by_structure)
    assert Anatomy.of(llama).logit_transform is None


@pytest.mark.parametrize(
    ("value", "message"),
    [("no_such_module:factory", r"cannot be loaded: ModuleNotFoundError(.|\n)*package"), ("math:pi", "is not callable")],
)
def test_an_entry_point_that_is_broken(llama, monkeypatch, value, message):
    by_entry_point(monkeypatch, value)
    with pytest.raises(ModelError, match=message):
        dola.attach(llama)


@pytest.mark.parametrize("model_type", sorted(set(REFUSED) & {"cpmant", "prophetnet", "reformer", "xlm", "xlnet"}))
def test_types_without_a_readable_residual_stream_are_refused_by_name(model_type):
    model = any_model.build(any_model.config_of(model_type))
    with pytest.raises(ModelError, match="cannot be contrasted: its blocks"):
        dola.attach(model)


def test_a_padded_vocabulary_is_cut_after_scale_and_cap():
    logits = torch.tensor([[1.0, 2.0, 3.0]])
    transform = Chain((Scale(2.0), SoftCap(5.0), Cut(2)))
    torch.testing.assert_close(transform(logits), 5 * torch.tanh(torch.tensor([[2.0, 4.0]]) / 5))


def test_altup_leaves_equal_streams_as_they_are():
    projections = torch.nn.ModuleList([torch.nn.Identity(), torch.nn.Identity()])
    stream = torch.randn(1, 5, 8)
    torch.testing.assert_close(AltUp(projections)(torch.stack([stream] * 3)), stream)
    bigger = torch.stack([stream, 10 * stream, 0.1 * stream])  # brought back to the size of the first
    torch.testing.assert_close(AltUp(projections)(bigger), stream)
